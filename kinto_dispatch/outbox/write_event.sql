-- What most requests need. One row is planned and written in half the time that arrays take.
INSERT INTO kinto_dispatch_outbox (event_id, body) VALUES (%(event_id)s, %(body)s);
