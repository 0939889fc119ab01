-- Move dead letters back into the lane. KEYS dead stream; ARGV id... Returns how many.
local moved = 0
for i = 1, #ARGV do
  local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
  if entry then
    local fields = {}
    for j = 1, #entry[2], 2 do fields[entry[2][j]] = entry[2][j + 1] end
    redis.call('XDEL', KEYS[1], ARGV[i])
    redis.call('XADD', KEYS[2], '*', 'k', fields['k'], 'b', fields['b'], 'n', '1', 'r', '1')
    moved = moved + 1
  end
end
return moved
