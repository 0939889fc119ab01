-- Forget attempt records and dead letters from before a time, and consumers that were not seen
-- for long and hold nothing. Close digests whose delivery was deleted by hand.
-- KEYS attempts dead stream held waiting opened members
-- ARGV attempts_before_ms dead_before_ms group idle_ms
-- Returns how many records and dead letters.
local SAMPLES = 100
local pruned = redis.call('XTRIM', KEYS[1], 'MINID', '=', ARGV[1])
  + redis.call('XTRIM', KEYS[2], 'MINID', '=', ARGV[2])
local digests = digests_of(KEYS[3], KEYS[1], KEYS[5], KEYS[6], KEYS[7])
if redis.call('EXISTS', KEYS[6]) == 1 then
  for _, id in ipairs(redis.call('HRANDFIELD', KEYS[6], SAMPLES)) do
    local is_there = fields_of(KEYS[3], id) or redis.call('HEXISTS', KEYS[4], id) == 1
    if not is_there then close_digest(digests, id, now_ms()) end
  end
end
local consumers = redis.pcall('XINFO', 'CONSUMERS', KEYS[3], ARGV[3])
if consumers.err then return pruned end
for _, consumer in ipairs(consumers) do
  if get_field(consumer, 'pending') == 0 and get_field(consumer, 'idle') > tonumber(ARGV[4]) then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[3], ARGV[3], get_field(consumer, 'name'))
  end
end
return pruned
