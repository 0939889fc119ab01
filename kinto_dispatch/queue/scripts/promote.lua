-- Move what is due back into the lane, the earliest first, at most until so many deliveries wait
-- there that nobody was given yet (-1: any number), but at_least so many in any case. Open the
-- digests that are due. What cannot be read becomes a dead letter.
-- KEYS due held stream attempts dead waiting opened members; ARGV group count upto at_least
-- Returns {how many, milliseconds until the next is due or -1}.
local now, moved, count = now_ms(), 0, tonumber(ARGV[2])
local digests = digests_of(KEYS[3], KEYS[4], KEYS[6], KEYS[7], KEYS[8])

-- The fields of an entry that was held, or nil.
local function unpacked(held)
  local is_read, fields = pcall(cmsgpack.unpack, held)
  if not is_read or type(fields) ~= 'table' or #fields == 0 or #fields % 2 == 1 then return end
  for _, value in ipairs(fields) do
    if type(value) ~= 'string' then return end
  end
  return fields
end

local function bury(id, held)
  local found = held and 'what was kept of it cannot be read' or 'nothing of it was kept'
  redis.call(
    'XADD', KEYS[5], '*', 'key', 'unknown:' .. id, 'body', held or '', 'kind', 'failed',
    'reason', 'It waited for its next attempt, and ' .. found .. ': somebody else changed the queue',
    'attempts', '0', 'at', now
  )
  close_digest(digests, id, now)
end

if tonumber(ARGV[3]) >= 0 then
  local waiting = redis.call('XLEN', KEYS[3]) - progress_of(KEYS[3], ARGV[1])
  count = math.min(count, math.max(ARGV[3] - waiting, tonumber(ARGV[4])))
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', now, 'LIMIT', 0, count)) do
  local held = redis.call('HGET', KEYS[2], id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('HDEL', KEYS[2], id)
  local fields = unpacked(held)
  if not fields then
    bury(id, held)
  elseif not replace_by_newer(digests, id, fields, now) then
    move_digest(digests, id, redis.call('XADD', KEYS[3], '*', unpack(fields)))
  end
  moved = moved + 1
end
for _, name in ipairs(
  redis.call('ZRANGEBYSCORE', KEYS[6], '-inf', now, 'LIMIT', 0, math.max(0, count - moved))
) do
  open_digest(digests, name, now)
  moved = moved + 1
end

local function milliseconds_to(sorted_set)
  local nearest = redis.call('ZRANGE', sorted_set, 0, 0, 'WITHSCORES')[2]
  return nearest and tonumber(nearest) < math.huge and math.max(0, math.ceil(nearest - now)) or math.huge
end

local nearest = math.min(milliseconds_to(KEYS[1]), milliseconds_to(KEYS[6]))
return {moved, nearest < math.huge and nearest or -1}
