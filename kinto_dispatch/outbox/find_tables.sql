SELECT to_regclass('kinto_dispatch_outbox') IS NOT NULL
   AND to_regclass('kinto_dispatch_lane') IS NOT NULL;
