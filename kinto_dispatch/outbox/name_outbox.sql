-- The table of that number in that database of that cluster: no other is called the same.
SELECT format(
           '%s of cluster %s, table %s',
           current_database(),
           (SELECT system_identifier FROM pg_control_system()),
           CAST(CAST('kinto_dispatch_outbox' AS regclass) AS oid)
       );
