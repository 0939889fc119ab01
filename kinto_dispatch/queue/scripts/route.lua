-- Append deliveries and move the cursor, if it stands where the router saw it.
-- KEYS cursor stream dead; ARGV after upto count {key body attempt flags}... {key body kind reason}...
-- Returns where the cursor stands, or nil if the lane has none.
local cursor = redis.call('GET', KEYS[1])
if cursor ~= ARGV[1] then return cursor end
local now, i = now_ms(), 4
for _ = 1, tonumber(ARGV[3]) do
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
