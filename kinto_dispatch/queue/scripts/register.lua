-- Make lanes known; a new one begins at the end of the log. KEYS stream lanes; ARGV lane...
local last = '0-0'
if redis.call('EXISTS', KEYS[1]) == 1 then
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  for i = 1, #info, 2 do
    if info[i] == 'last-generated-id' then last = info[i + 1] end
  end
end
for i = 1, #ARGV do redis.call('HSETNX', KEYS[2], ARGV[i], last) end
return redis.call('HMGET', KEYS[2], unpack(ARGV))
