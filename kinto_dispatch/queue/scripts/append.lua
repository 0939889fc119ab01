-- Append events to the log, each once within the window.
-- KEYS stream seen mark lanes; ARGV window_ms window_count bound(0/1) mark after {id body}...
-- Returns 0: no lane is registered, nothing was done; 1: the log has them; 2: another mark stands.
if redis.call('EXISTS', KEYS[4]) == 0 then return 0 end
local first = 6
if ARGV[3] == '1' then
  local mark = redis.call('GET', KEYS[3]) or ''
  if mark == ARGV[4] then return 1 end
  if mark ~= ARGV[5] then return 2 end
end
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', now - ARGV[1])
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(ARGV[2] + 1))
for i = first, #ARGV, 2 do
  if redis.call('ZADD', KEYS[2], 'NX', now, ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], '*', 'b', ARGV[i + 1])
  end
end
if ARGV[3] == '1' then redis.call('SET', KEYS[3], ARGV[4]) end
return 1
