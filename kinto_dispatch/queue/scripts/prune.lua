-- Forget attempt records and dead letters from before a time, and consumers that were not seen
-- for long and hold nothing.
-- KEYS attempts dead stream; ARGV attempts_before_ms dead_before_ms group idle_ms
-- Returns how many records and dead letters.
local pruned = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
  + redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[3], ARGV[3])
if consumers.err then return pruned end
for _, consumer in ipairs(consumers) do
  if get_field(consumer, 'pending') == 0 and get_field(consumer, 'idle') > tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[3], ARGV[3], get_field(consumer, 'name'))
  end
end
return pruned
