INSERT INTO kinto_dispatch_outbox (event_id, body)
SELECT event_id, body
  FROM unnest(CAST(%(event_ids)s AS text[]), CAST(%(bodies)s AS bytea[]))
       WITH ORDINALITY AS events (event_id, body, position)
 ORDER BY position;
