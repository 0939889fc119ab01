-- Microseconds of the clock, not a sequence: in a crash PostgreSQL forgets what a sequence gave to
-- a transaction that did not commit, and would give it to other rows. A mark that the log already
-- has looks like a repeat, and those rows would be skipped.
SELECT greatest(
           max(relay_batch) + 1,
           CAST(extract(epoch FROM clock_timestamp()) * 1000000 AS bigint)
       ) AS mark,
       max(relay_batch) AS last,
       ARRAY(SELECT name FROM kinto_dispatch_lane) AS lanes
  FROM kinto_dispatch_outbox
 WHERE relay_batch IS NOT NULL;
