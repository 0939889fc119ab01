-- Move what is due back into the lane. KEYS due held stream; ARGV count.
-- Returns {moved, milliseconds until the next is due or -1}.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, ARGV[1])
for _, member in ipairs(due) do
  local held = redis.call('HGET', KEYS[2], member)
  redis.call('ZREM', KEYS[1], member)
  redis.call('HDEL', KEYS[2], member)
  if held then
    local entry = cmsgpack.unpack(held)
    redis.call('XADD', KEYS[3], '*', 'k', entry[1], 'b', entry[2], 'n', entry[3], 'r', entry[4])
  end
end
local nearest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
if nearest[2] then return {#due, math.max(0, math.ceil(nearest[2] - now))} end
return {#due, -1}
