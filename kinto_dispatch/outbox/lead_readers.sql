-- Held by the session: whoever loses the connection loses the lead.
SELECT pg_try_advisory_lock(:key, CAST(CAST('kinto_dispatch_outbox' AS regclass) AS oid)::int);
