-- From the oldest on: the greatest mark goes last, and as long as it stands the loss shows.
UPDATE kinto_dispatch_outbox
   SET relayed_at = NULL, relay_batch = NULL
 WHERE id IN (
           SELECT id
             FROM kinto_dispatch_outbox
            WHERE relay_batch > :after AND relay_batch <= :upto
            ORDER BY relay_batch
            LIMIT :count
       )
   AND relay_batch > :after AND relay_batch <= :upto;
