-- Give claims back unattempted. KEYS stream; ARGV group, then id consumer token...
for i = 2, #ARGV, 3 do
  local pending = redis.call('XPENDING', KEYS[1], ARGV[1], ARGV[i], ARGV[i], 1)[1]
  if pending and pending[2] == ARGV[i + 1] and pending[4] == tonumber(ARGV[i + 2]) then
    local entry = redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i])[1]
    redis.call('XACK', KEYS[1], ARGV[1], ARGV[i])
    redis.call('XDEL', KEYS[1], ARGV[i])
    if entry then redis.call('XADD', KEYS[1], '*', unpack(entry[2])) end
  end
end
return 1
