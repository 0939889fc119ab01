-- For this transaction only, where its batch takes longer on its way to the queue.
SELECT set_config('idle_in_transaction_session_timeout', CAST(:seconds AS text) || 's', true);
