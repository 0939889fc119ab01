WITH oldest AS (
    SELECT id, relayed_at
      FROM kinto_dispatch_outbox
     WHERE relay_batch IS NOT NULL
     ORDER BY relay_batch
     LIMIT :count
)
DELETE FROM kinto_dispatch_outbox AS outbox
 USING oldest
 WHERE outbox.id = oldest.id
   AND oldest.relayed_at < clock_timestamp() - make_interval(secs => :keep_seconds)
   -- Asked of the row itself as well: a row that was fed again meanwhile has to stay.
   AND outbox.relayed_at < clock_timestamp() - make_interval(secs => :keep_seconds);
