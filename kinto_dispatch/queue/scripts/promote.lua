-- Move what is due back into the lane, the earliest first.
-- KEYS due held stream; ARGV count
-- Returns {how many, milliseconds until the next is due or -1}.
local now, moved = now_ms(), 0
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])) do
  local held = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  if held then
    redis.call('XADD', KEYS[3], '*', unpack(cmsgpack.unpack(held)))
    moved = moved + 1
  end
end
local nearest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2]
return {moved, nearest and math.max(0, math.ceil(nearest - now)) or -1}
