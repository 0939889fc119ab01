-- Carry out fates. Frees before it writes, so that it passes where memory is full.
-- KEYS stream due held dead attempts strikes
-- ARGV group, MessagePack list of {id consumer token fate a b record}
--   fate 'done'; 'later' with delay_ms attempt; 'dead' with kind reason
-- Returns 1 or 0 for each: whether it counted.
local group = ARGV[1]
local result, freed, writes, records = {}, {}, {}, {}
for position, item in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, fate = item[1], item[4]
  local counts = 0
  if fate == 'done' then
    -- Whoever holds it by now: it has been delivered.
    counts = redis.call('XACK', KEYS[1], group, id)
  else
    local pending = redis.call('XPENDING', KEYS[1], group, id, id, 1)[1]
    if pending and pending[2] == item[2] and pending[4] == item[3] then
      writes[#writes + 1] = {item, redis.call('XRANGE', KEYS[1], id, id)[1]}
      counts = redis.call('XACK', KEYS[1], group, id)
    end
  end
  result[position] = counts
  if counts == 1 then
    freed[#freed + 1] = id
    records[#records + 1] = item[7]
  end
end
for start = 1, #freed, 1000 do
  local stop = math.min(start + 999, #freed)
  redis.call('XDEL', KEYS[1], unpack(freed, start, stop))
  redis.call('HDEL', KEYS[6], unpack(freed, start, stop))
end
if #writes > 0 then
  local time = redis.call('TIME')
  local now = time[1] * 1000 + math.floor(time[2] / 1000)
  for _, write in ipairs(writes) do
    local item, entry, fields = write[1], write[2], {}
    if entry then
      for i = 1, #entry[2], 2 do fields[entry[2][i]] = entry[2][i + 1] end
    end
    local key, body, attempt = fields['k'] or '', fields['b'] or '', fields['n'] or '1'
    if item[4] == 'later' then
      local held = {key, body, item[6], fields['r'] or '0'}
      redis.call('HSET', KEYS[3], item[1], cmsgpack.pack(held))
      redis.call('ZADD', KEYS[2], now + item[5], item[1])
    else
      redis.call(
        'XADD', KEYS[4], '*', 'k', key, 'b', body, 'd', item[5], 'w', item[6], 'n', attempt
      )
    end
  end
end
if #records > 0 then
  redis.call('XADD', KEYS[5], '*', 'r', '[' .. table.concat(records, ',') .. ']')
end
return result
