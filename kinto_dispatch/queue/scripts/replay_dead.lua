-- Move dead letters back into the lane, as first attempts that are marked as replayed.
-- KEYS dead stream; ARGV id...
-- Returns how many were still there.
local moved = 0
for i = 1, #ARGV do
  local fields = fields_of(KEYS[1], ARGV[i])
  if fields then
    redis.call('XDEL', KEYS[1], ARGV[i])
    redis.call('XADD', KEYS[2], '*', unpack(entry_of(fields, '1', 'replay')))
    moved = moved + 1
  end
end
return moved
