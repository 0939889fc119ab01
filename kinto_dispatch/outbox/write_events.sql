INSERT INTO kinto_dispatch_outbox (event_id, body)
SELECT event_id, body
  FROM unnest(CAST(:event_ids AS text[]), CAST(:bodies AS bytea[]))
       WITH ORDINALITY AS events (event_id, body, position)
 ORDER BY position;
