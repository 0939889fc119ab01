-- In the order of their names, so that two transactions that announce at once wait for each other
-- in one direction only.
INSERT INTO kinto_dispatch_lane (name)
SELECT name FROM unnest(CAST(:names AS text[])) AS names (name) ORDER BY name
    ON CONFLICT DO NOTHING;
