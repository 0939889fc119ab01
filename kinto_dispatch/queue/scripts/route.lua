-- Append deliveries and move the cursor, if it stands where the router saw it.
-- KEYS cursor stream dead; ARGV after upto initial(0/1) count_entries {key body attempt replay}...
-- {key body kind reason}...   Returns where the cursor stands.
local cursor = redis.call('GET', KEYS[1])
if cursor then
  if cursor ~= ARGV[1] then return cursor end
elseif ARGV[3] ~= '1' then
  return ''
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local i = 5
for _ = 1, tonumber(ARGV[4]) do
  redis.call('XADD', KEYS[2], '*', 'k', ARGV[i], 'b', ARGV[i + 1], 'n', ARGV[i + 2], 'r', ARGV[i + 3])
  i = i + 4
end
while i <= #ARGV do
  redis.call('XADD', KEYS[3], '*', 'k', ARGV[i], 'b', ARGV[i + 1], 'd', ARGV[i + 2], 'w', ARGV[i + 3], 'n', '0')
  i = i + 4
end
redis.call('SET', KEYS[1], ARGV[2])
return ARGV[2]
