SELECT to_regclass('kinto_dispatch_outbox') IS NOT NULL;
