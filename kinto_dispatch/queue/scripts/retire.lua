-- Forget consumers on which nothing is pending.
-- KEYS stream; ARGV group consumer...
-- Returns how many.
local retired = 0
for i = 2, #ARGV do
  local pending = redis.pcall('XPENDING', KEYS[1], ARGV[1], '-', '+', 1, ARGV[i])
  if not pending.err and not pending[1] then
    redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], ARGV[i])
    retired = retired + 1
  end
end
return retired
