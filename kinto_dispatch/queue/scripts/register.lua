-- Make lanes known; a new one begins at the end of the log as it stands now. Passes where memory is
-- full, or no worker could start that empties it.
-- KEYS stream lanes; ARGV lane...
-- Returns where each begins.
local starts, last = {}, nil

local function end_of_log()
  if redis.call('EXISTS', KEYS[1]) == 0 then return '0-0' end
  local info = redis.call('XINFO', 'STREAM', KEYS[1])
  return get_field(info, 'last-generated-id')
end

for i = 1, #ARGV do
  local start = redis.call('HGET', KEYS[2], ARGV[i])
  if not start then
    last = last or end_of_log()
    start = last
    pass_where_full(KEYS[1])
    redis.call('HSET', KEYS[2], ARGV[i], start)
  end
  starts[i] = start
end
return starts
