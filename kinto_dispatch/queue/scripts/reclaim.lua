-- Take over what has been idle for longer than its lease, oldest first.
-- KEYS stream strikes; ARGV group consumer lease_ms count. Returns {id token strikes fields}...
local taken = {}
local idle = redis.call('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], '-', '+', ARGV[4])
for _, pending in ipairs(idle) do
  local id = pending[1]
  local claimed = redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], ARGV[3], id)
  if claimed[1] and claimed[1][2] then
    taken[#taken + 1] = {
      id, pending[4] + 1, redis.call('HGET', KEYS[2], id) or '0', claimed[1][2],
    }
  else
    redis.call('XACK', KEYS[1], ARGV[1], id)
  end
end
return taken
