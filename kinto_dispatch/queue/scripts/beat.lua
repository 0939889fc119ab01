-- Note that a worker lives, and forget those that no longer do.
-- KEYS until info seen; ARGV worker info ttl_ms
local now = now_ms()
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now)) do
  redis.call('HDEL', KEYS[2], worker)
end
-- Also the first write of all, and one that frees, so that the rest passes where memory is full.
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', now)
redis.call('ZADD', KEYS[1], now + ARGV[3], ARGV[1])
redis.call('HSET', KEYS[2], ARGV[1], ARGV[2])
redis.call('SET', KEYS[3], '1')
return 1
