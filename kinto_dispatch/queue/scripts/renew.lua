-- Prolong the leases of claims that are still held.
-- KEYS stream; ARGV group, MessagePack list of {id consumer token}
-- Returns the positions (from 0) of those that were lost.
local lost = {}
for position, claim in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, consumer, token = claim[1], claim[2], claim[3]
  if holds(KEYS[1], ARGV[1], id, consumer, token) then
    -- JUSTID leaves the count of deliveries, which is the token, as it is.
    redis.call('XCLAIM', KEYS[1], ARGV[1], consumer, 0, id, 'JUSTID')
  else
    lost[#lost + 1] = position - 1
  end
end
return lost
