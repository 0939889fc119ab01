SELECT max(relay_batch) FROM kinto_dispatch_outbox WHERE relay_batch IS NOT NULL;
