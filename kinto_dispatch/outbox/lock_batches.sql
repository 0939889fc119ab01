-- One batch at a time over all relays, freed by commit, rollback and the end of the connection.
SELECT pg_try_advisory_xact_lock(:key, CAST(CAST('kinto_dispatch_outbox' AS regclass) AS oid)::int);
