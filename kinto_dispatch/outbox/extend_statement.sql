-- For this transaction only, where reading a batch took too long before.
SELECT set_config('statement_timeout', CAST(:seconds AS text) || 's', true);
