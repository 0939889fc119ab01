SELECT count(*) AS waiting,
       extract(epoch FROM clock_timestamp() - min(created_at)) AS oldest_seconds
  FROM kinto_dispatch_outbox
 WHERE relayed_at IS NULL;
