-- Move what is due back into the lane, the earliest first, at most until so many deliveries wait
-- there that nobody was given yet (-1: any number), but at_least so many in any case. Open the
-- digests that are due.
-- KEYS due held stream attempts waiting opened members; ARGV group count upto at_least
-- Returns {how many, milliseconds until the next is due or -1}.
local now, moved, count = now_ms(), 0, tonumber(ARGV[2])
local digests = digests_of(KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7])
if tonumber(ARGV[3]) >= 0 then
  local waiting = redis.call('XLEN', KEYS[3]) - progress_of(KEYS[3], ARGV[1])
  count = math.min(count, math.max(ARGV[3] - waiting, tonumber(ARGV[4])))
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)) do
  local held = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  local fields = held and cmsgpack.unpack(held)
  if fields then
    if not replace_by_newer(digests, id, fields, now) then
      move_digest(digests, id, redis.call('XADD', KEYS[3], '*', unpack(fields)))
    end
    moved = moved + 1
  end
end
for _, name in ipairs(
  redis.call('ZRANGEBYSCORE', KEYS[5], '-inf', now, 'LIMIT', 0, math.max(0, count - moved))
) do
  open_digest(digests, name, now)
  moved = moved + 1
end

local function milliseconds_to(sorted_set)
  local nearest = redis.call('ZRANGE', sorted_set, 0, 0, 'WITHSCORES')[2]
  return nearest and tonumber(nearest) < math.huge and math.max(0, math.ceil(nearest - now)) or math.huge
end

local nearest = math.min(milliseconds_to(KEYS[1]), milliseconds_to(KEYS[5]))
return {moved, nearest < math.huge and nearest or -1}
