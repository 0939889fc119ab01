-- Note that an entry killed the process that ran it alone, once more than its holder knew of. So a
-- repeat changes nothing.
-- KEYS stream strikes; ARGV group id consumer token known
-- Returns how many strikes there are now, 0 if somebody else holds the entry.
local group, id, consumer, known = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[5])
if not holds(KEYS[1], group, id, consumer, ARGV[4]) then return 0 end
-- Prolongs the lease, and a script that has claimed may write where memory is full.
redis.call('XCLAIM', KEYS[1], group, consumer, 0, id, 'JUSTID')
local strikes = redis.call('HINCRBY', KEYS[2], id, 0)
if strikes <= known then
  strikes = redis.call('HINCRBY', KEYS[2], id, known + 1 - strikes)
end
return strikes
