-- Claim new deliveries, as many as there are tokens, without waiting; of large ones fewer.
-- KEYS stream paused breaker limit; ARGV group consumer count probe interval_us burst most_bytes
-- Returns {entries, wait_ms, after}: nothing can be claimed for wait_ms, -1 for as long as the lane
-- is held back; or, where that is 0 and nothing was claimed, before something is added after that
-- id.
local FIRST = 16
if is_held_back(KEYS[2], KEYS[3], ARGV[4]) then return {{}, -1, ''} end
local left, wait, bucket = tokens(KEYS[4], ARGV[5], ARGV[6])
if left < 1 then return {{}, wait, ''} end

local function read(count)
  return redis.pcall(
    'XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', count, 'STREAMS', KEYS[1], '>'
  )
end

local claimed, bytes, largest, portion = {}, 0, 1, FIRST

local function keep(entries)
  for _, entry in ipairs(entries) do
    local size = 0
    for _, value in ipairs(entry[2] or {}) do size = size + #value end
    bytes, largest = bytes + size, math.max(largest, size)
    claimed[#claimed + 1] = entry
  end
end

local wanted, most_bytes = math.min(left, tonumber(ARGV[3])), tonumber(ARGV[7])
while #claimed < wanted and bytes < most_bytes do
  local found = read(math.min(portion, wanted - #claimed))
  if found and found.err then
    -- No group yet, or a server that forgot. From the start of the lane, for all that is there.
    redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
    found = read(math.min(portion, wanted - #claimed))
  end
  if not (found and found[1]) then break end
  keep(found[1][2])
  portion = math.max(1, math.min(2 * portion, math.floor((most_bytes - bytes) / largest)))
end
if #claimed > 0 then
  take(bucket, #claimed)
  return {claimed, 0, ''}
end
local _, after = progress_of(KEYS[1], ARGV[1])
return {{}, 0, after}
