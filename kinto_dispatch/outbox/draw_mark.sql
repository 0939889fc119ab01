SELECT nextval('kinto_dispatch_outbox_mark') AS mark, max(relay_batch) AS last
  FROM kinto_dispatch_outbox
 WHERE relay_batch IS NOT NULL;
