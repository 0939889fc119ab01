UPDATE kinto_dispatch_outbox
   SET relayed_at = clock_timestamp(), relay_batch = :mark
 WHERE id = ANY(:ids);
