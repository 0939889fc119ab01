-- Append deliveries and move the cursor, if it stands where the router saw it.
-- Where memory is full, a cursor moves that takes nothing along; what is squeezed in passes, too,
-- if the lane has nothing else to do.
-- KEYS cursor stream dead due
-- ARGV after upto squeeze count {key body attempt flags}... {key body kind reason}...
-- Returns where the cursor stands, or nil if the lane has none.
local cursor = redis.call('GET', KEYS[1])
if cursor ~= ARGV[1] then return cursor end
local now, i = now_ms(), 5

local function is_idle()
  return redis.call('XLEN', KEYS[2]) == 0 and redis.call('ZCARD', KEYS[4]) == 0
end

if #ARGV < i or (ARGV[3] == '1' and is_idle()) then pass_where_full(KEYS[2]) end
for _ = 1, tonumber(ARGV[4]) do
  redis.call(
    'XADD', KEYS[2], '*',
    'key', ARGV[i], 'body', ARGV[i + 1], 'attempt', ARGV[i + 2], 'flags', ARGV[i + 3]
  )
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
