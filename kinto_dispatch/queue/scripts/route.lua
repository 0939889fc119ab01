-- Append deliveries and move the cursor, if it stands where the router saw it.
-- Where memory is full, a cursor moves that takes nothing along; what is squeezed in passes, too,
-- if the lane has nothing else to do.
-- KEYS cursor stream dead due attempts waiting opened members
-- ARGV after upto squeeze digests count {key body attempt flags}... {key body kind reason}...
--   digests: '' or MessagePack {window_ms only_latest {the name of each delivery's digest}}
-- Returns where the cursor stands, or nil if the lane has none.
local cursor = redis.call('GET', KEYS[1])
if cursor ~= ARGV[1] then return cursor end
local now, i = now_ms(), 6

local function is_idle()
  return redis.call('XLEN', KEYS[2]) + redis.call('ZCARD', KEYS[4]) == 0
    and redis.call('ZCARD', KEYS[6]) == 0
end

if #ARGV < i or (ARGV[3] == '1' and is_idle()) then pass_where_full(KEYS[2]) end
local digests = digests_of(KEYS[2], KEYS[5], KEYS[6], KEYS[7], KEYS[8])
local window_ms, only_latest, names = 0, false, {}
if ARGV[4] ~= '' then window_ms, only_latest, names = unpack(cmsgpack.unpack(ARGV[4])) end
for position = 1, tonumber(ARGV[5]) do
  local name = names[position]
  if name then
    collect(digests, name, ARGV[i], ARGV[i + 1], window_ms, only_latest, now)
  else
    redis.call(
      'XADD', KEYS[2], '*',
      'key', ARGV[i], 'body', ARGV[i + 1], 'attempt', ARGV[i + 2], 'flags', ARGV[i + 3]
    )
  end
  i = i + 4
end
while i <= #ARGV do
  redis.call(
    'XADD', KEYS[3], '*',
    'key', ARGV[i], 'body', ARGV[i + 1], 'kind', ARGV[i + 2], 'reason', ARGV[i + 3],
    'attempts', '0', 'at', now
  )
  i = i + 4
end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
