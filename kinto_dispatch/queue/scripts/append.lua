-- Append events to the log, each once within the window.
-- KEYS stream seen mark lanes
-- ARGV window_ms window_count, count_lanes lane..., bound expected mark, {id body}...
--   bound: '' for a call without mark, 'none' where the log must have none yet, 'at' where it must
--   have the expected one
-- Returns {'unregistered'}: the log does not know one of the lanes, nothing was done.
--         {'behind'}: another mark stands, nothing was done.
--         {'appended', n}: the log has them all, and n of them are new.
-- Does not free before it writes: where memory is full, it has to fail.
local window_ms, window_count, count_lanes = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local at = 4 + count_lanes
if count_lanes > 0 then
  for _, start in ipairs(redis.call('HMGET', KEYS[4], unpack(ARGV, 4, at - 1))) do
    if not start then return {'unregistered'} end
  end
end
local bound, expected, mark = ARGV[at], ARGV[at + 1], ARGV[at + 2]
if bound ~= '' then
  local stands = redis.call('GET', KEYS[3])
  if stands == mark then return {'appended', 0} end
  if stands ~= (bound == 'at' and expected) then return {'behind'} end
end
local now, appended = now_ms(), 0
for i = at + 3, #ARGV, 2 do
  if redis.call('ZADD', KEYS[2], 'NX', now, ARGV[i]) == 1 then
    redis.call('XADD', KEYS[1], '*', 'body', ARGV[i + 1])
    appended = appended + 1
  end
end
if bound ~= '' then redis.call('SET', KEYS[3], mark) end
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', '(' .. now - window_ms)
redis.call('ZREMRANGEBYRANK', KEYS[2], 0, -(window_count + 1))
return {'appended', appended}
