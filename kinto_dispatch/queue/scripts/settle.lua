-- Carry out fates. Frees before it writes, so that it passes where memory is full.
-- KEYS stream due held dead attempts strikes; ARGV group count records_or_empty...
-- per item: id consumer token fate(done|later|dead) a b    (later: delay_ms attempt; dead: kind reason)
-- then the record of each item. Returns 1 or 0 for each: whether it counted.
local group, count = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local result, done, writes, records = {}, {}, {}, {}
local base = 3
for item = 0, count - 1 do
  local at = base + item * 6
  local id, fate = ARGV[at], ARGV[at + 3]
  local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
  local counts = 0
  if pending then
    local holds = pending[2] == ARGV[at + 1] and pending[4] == tonumber(ARGV[at + 2])
    if fate == 'done' then
      counts = 1
      done[#done + 1] = id
    elseif holds then
      counts = 1
      writes[#writes + 1] = {at, redis.call('XRANGE', KEYS[1], id, id)[1]}
      done[#done + 1] = id
    end
  end
  result[item + 1] = counts
  if counts == 1 then records[#records + 1] = ARGV[base + count * 6 + item] end
end
for start = 1, #done, 1000 do
  local stop = math.min(start + 999, #done)
  redis.call('XACK', KEYS[1], group, unpack(done, start, stop))
  redis.call('XDEL', KEYS[1], unpack(done, start, stop))
  redis.call('HDEL', KEYS[6], unpack(done, start, stop))
end
for _, write in ipairs(writes) do
  local at, entry = write[1], write[2]
  local fields = {}
  if entry then
    for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
  end
  local key, body, attempt = fields['k'] or '', fields['b'] or '', fields['n'] or '1'
  if ARGV[at + 3] == 'later' then
    local member = ARGV[at]
    redis.call('HSET', KEYS[3], member, cmsgpack.pack({key, body, ARGV[at + 5], fields['r'] or '0'}))
    redis.call('ZADD', KEYS[2], now + tonumber(ARGV[at + 4]), member)
  else
    redis.call('XADD', KEYS[4], '*', 'k', key, 'b', body, 'd', ARGV[at + 4], 'w', ARGV[at + 5], 'n', attempt)
  end
end
if #records > 0 then
  redis.call('XADD', KEYS[5], '*', 'r', '[' .. table.concat(records, ',') .. ']')
end
return result
