-- Rows by their state, never by "id greater than the last one seen": ids are drawn before the
-- commit, so a long transaction brings a lower id later.
WITH waiting AS MATERIALIZED (
    SELECT id, octet_length(body) AS bytes
      FROM kinto_dispatch_outbox
     WHERE relayed_at IS NULL
     ORDER BY id
     LIMIT :count
       FOR UPDATE SKIP LOCKED
), sized AS (
    SELECT id, sum(bytes) OVER (ORDER BY id) AS total, row_number() OVER (ORDER BY id) AS number
      FROM waiting
)
SELECT outbox.id, outbox.event_id, outbox.body
  FROM sized JOIN kinto_dispatch_outbox AS outbox USING (id)
 WHERE sized.total <= :bytes OR sized.number = 1
 ORDER BY outbox.id;
