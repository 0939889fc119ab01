-- One lane in numbers.
-- KEYS stream due dead paused breaker cursor; ARGV group
-- Returns {now_ms length pending retry dead paused breaker cursor oldest}, where oldest is the id
-- of the first entry that nobody was given yet, or ''.
local pending, delivered = 0, '0-0'
local groups = redis.pcall('XINFO', 'GROUPS', KEYS[1])
if not groups.err then
  for _, group in ipairs(groups) do
    if get_field(group, 'name') == ARGV[1] then
      pending = get_field(group, 'pending')
      delivered = get_field(group, 'last-delivered-id')
    end
  end
end
local first = redis.call('XRANGE', KEYS[1], '(' .. delivered, '+', 'COUNT', 1)[1]
return {
  now_ms(), redis.call('XLEN', KEYS[1]), pending, redis.call('ZCARD', KEYS[2]),
  redis.call('XLEN', KEYS[3]), redis.call('EXISTS', KEYS[4]), redis.call('GET', KEYS[5]) or '',
  redis.call('GET', KEYS[6]) or '', first and first[1] or '',
}
