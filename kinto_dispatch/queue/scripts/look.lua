-- One lane in numbers.
-- KEYS stream due dead paused breaker cursor waiting; ARGV group
-- Returns {now_ms length pending retry dead paused breaker cursor oldest collecting}, where oldest
-- is since when the first entry waits that nobody was given yet, in milliseconds, or '', and
-- collecting the number of digests that are not open yet.
local pending, delivered = progress_of(KEYS[1], ARGV[1])
local first = redis.call('XRANGE', KEYS[1], '(' .. delivered, '+', 'COUNT', 1)[1]
local oldest = first and since_of(first[1], first[2]) or ''
return {
  now_ms(), redis.call('XLEN', KEYS[1]), pending, redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]), redis.call('EXISTS', KEYS[4]), state_of(KEYS[5]),
  redis.call('GET', KEYS[6]) or '', oldest,
  redis.call('ZCOUNT', KEYS[7], '-inf', '(+inf'),
}
