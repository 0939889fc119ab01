-- The first entry of the log that was not yet considered for a lane.
-- KEYS stream lanes; ARGV {lane cursor}..., where a lane without cursor has ''
-- Returns an id for each, or ''.
local ids = {}
for i = 1, #ARGV, 2 do
  local cursor = ARGV[i + 1]
  if cursor == '' then cursor = redis.call('HGET', KEYS[2], ARGV[i]) end
  local first = cursor and redis.call('XRANGE', KEYS[1], '(' .. cursor, '+', 'COUNT', 1)[1]
  ids[#ids + 1] = first and first[1] or ''
end
return ids
