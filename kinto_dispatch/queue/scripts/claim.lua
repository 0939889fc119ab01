-- Claim new deliveries, as many as there are tokens, without waiting.
-- KEYS stream paused breaker limit; ARGV group consumer count probe interval_us burst
-- Returns {entries, wait_ms, after}: nothing can be claimed for wait_ms, -1 for as long as the lane
-- is held back; or, where that is 0 and nothing was claimed, before something is added after that
-- id.
if is_held_back(KEYS[2], KEYS[3], ARGV[4]) then return {{}, -1, ''} end
local left, wait, bucket = tokens(KEYS[4], ARGV[5], ARGV[6])
if left < 1 then return {{}, wait, ''} end

local function read()
  return redis.pcall(
    'XREADGROUP', 'GROUP', ARGV[1], ARGV[2], 'COUNT', math.min(left, tonumber(ARGV[3])),
    'STREAMS', KEYS[1], '>'
  )
end

local found = read()
if found and found.err then
  -- No group yet, or a server that forgot. From the start of the lane, for all that is there.
  redis.call('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
  found = read()
end
if found and found[1] then
  take(bucket, #found[1][2])
  return {found[1][2], 0, ''}
end
local _, after = progress_of(KEYS[1], ARGV[1])
return {{}, 0, after}
