-- Forget ids of events that were appended too long ago to be appended again.
-- KEYS seen; ARGV window_ms
-- Returns how many. Appends do the same, but not where memory is full.
return redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. now_ms() - ARGV[1])
