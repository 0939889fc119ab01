-- Prolong leases of claims that are still held. KEYS stream; ARGV group, then id consumer token...
-- Returns the positions (from 0) of those that were lost.
local lost = {}
for i = 2, #ARGV, 3 do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[i + 1] and pending[4] == tonumber(ARGV[i + 2]) then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[i + 1], 0, ARGV[i], 'JUSTID')
  else
    lost[#lost + 1] = (i - 2) / 3
  end
end
return lost
