-- For this transaction only, so that it also holds behind a pooler that shares connections.
SET LOCAL statement_timeout = '10s';
-- A relay that freezes must not keep its batch from the others.
SET LOCAL idle_in_transaction_session_timeout = '15s';
