-- Move what is due back into the lane, the earliest first, at most until so many deliveries wait
-- there that nobody was given yet (-1: any number), but at_least so many in any case.
-- KEYS due held stream; ARGV group count upto at_least
-- Returns {how many, milliseconds until the next is due or -1}.
local now, moved, count = now_ms(), 0, tonumber(ARGV[2])
if tonumber(ARGV[3]) >= 0 then
  local waiting = redis.call('XLEN', KEYS[3]) - progress_of(KEYS[3], ARGV[1])
  count = math.min(count, math.max(ARGV[3] - waiting, tonumber(ARGV[4])))
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)) do
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
