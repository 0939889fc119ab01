CREATE TABLE IF NOT EXISTS kinto_dispatch_outbox (
    -- Not an identity column: with each INSERT PostgreSQL would look up in a catalog which sequence
    -- is its own, which takes an eighth of the whole.
    id bigserial PRIMARY KEY,
    event_id text NOT NULL,
    body bytea NOT NULL,
    -- The clock, not now(): a transaction may have begun long before it writes here.
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    relayed_at timestamptz,
    relay_batch bigint
)
-- Every row is inserted, updated once and deleted: a share of the table would be a late trigger.
WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000);

CREATE INDEX IF NOT EXISTS kinto_dispatch_outbox_waiting
    ON kinto_dispatch_outbox (id) WHERE relayed_at IS NULL;

CREATE INDEX IF NOT EXISTS kinto_dispatch_outbox_relayed
    ON kinto_dispatch_outbox (relay_batch) WHERE relay_batch IS NOT NULL;

-- The lanes that some Kinto writes events for. A relay makes them known to the log before it appends,
-- also where its own ini is older. Names are never taken out: a few words for each channel ever.
CREATE TABLE IF NOT EXISTS kinto_dispatch_lane (name text PRIMARY KEY);

INSERT INTO metadata (name, value) VALUES ('kinto_dispatch_schema_version', '2');
