-- Carry out fates. Frees before it writes, so that it passes where memory is full.
-- KEYS stream due held dead attempts strikes breaker waiting opened members
-- ARGV group, MessagePack list, the record of each; in the list stand
--   id of what is done | {id consumer token 'later' delay_ms attempt suspect}
--   | {id consumer token 'dead' kind reason attempts answered}
-- Returns for each whether it counted, as a text of 0 and 1.
local CHUNK = 3000  -- Lua passes at most some 8,000 values to a function.
local group = ARGV[1]
local digests = digests_of(KEYS[1], KEYS[5], KEYS[8], KEYS[9], KEYS[10])
local result, freed, moved, records = {}, {}, {}, {}

local function close(id)
  if redis.call('XACK', KEYS[1], group, id) == 0 then return false end
  freed[#freed + 1] = id
  return true
end

local function move(item)
  local id = item[1]
  local fields = holds(KEYS[1], group, id, item[2], item[3]) and fields_of(KEYS[1], id)
  if not fields then return false end
  moved[#moved + 1] = {item, fields}
  return close(id)
end

local function put_off(item, fields, now)
  -- What ended its attempt and left its process alive is suspect no longer.
  local entry = entry_of(fields, tostring(item[6]), flags_of(fields, item[7]))
  redis.call('HSET', KEYS[3], item[1], cmsgpack.pack(entry))
  redis.call('ZADD', KEYS[2], now + item[5], item[1])
end

local function bury(item, fields, now)
  local letter = keep_unknown({
    'key', get_field(fields, 'key'), 'body', get_field(fields, 'body'),
    'kind', item[5], 'reason', item[6], 'attempts', item[7], 'at', now,
  }, fields)
  redis.call('XADD', KEYS[4], '*', unpack(letter))
end

-- The retry of a delivery that is known to be delivered is needless.
local function call_off(id)
  if redis.call('ZREM', KEYS[2], id) == 0 then return false end
  redis.call('HDEL', KEYS[3], id)
  return true
end

local items, answered = cmsgpack.unpack(ARGV[2]), false
for position, item in ipairs(items) do
  if type(item) == 'string' then
    result[position] = close(item)
  else
    result[position] = move(item)
  end
end
for from = 1, #freed, CHUNK do
  redis.call('XDEL', KEYS[1], unpack(freed, from, math.min(from + CHUNK - 1, #freed)))
end
for position, item in ipairs(items) do
  if not result[position] and type(item) == 'string' then
    -- Not pending: settled before, or put off by another worker, or the group was lost and would
    -- deliver it again.
    result[position] = redis.call('XDEL', KEYS[1], item) == 1 or call_off(item)
  end
  if result[position] then
    answered = answered or type(item) == 'string' or item[4] == 'dead' and item[8]
    records[#records + 1] = 'record'
    records[#records + 1] = ARGV[2 + position]
  end
  result[position] = result[position] and '1' or '0'
end
if redis.call('EXISTS', KEYS[6]) == 1 then
  for from = 1, #freed, CHUNK do
    redis.call('HDEL', KEYS[6], unpack(freed, from, math.min(from + CHUNK - 1, #freed)))
  end
end
-- What failed before was in a row no longer. One that is not closed is for the workers to close.
if answered and string.sub(redis.call('GET', KEYS[7]) or '', 1, 6) == 'closed' then
  redis.call('DEL', KEYS[7])
end
local now = now_ms()
for _, pair in ipairs(moved) do
  if pair[1][4] == 'later' then
    put_off(pair[1], pair[2], now)
  else
    bury(pair[1], pair[2], now)
  end
end
if redis.call('EXISTS', KEYS[9]) == 1 then
  for position, item in ipairs(items) do
    local has_left = result[position] == '1' and item[4] ~= 'later'
    if has_left then close_digest(digests, type(item) == 'string' and item or item[1], now) end
  end
end
for from = 1, #records, 2 * CHUNK do
  local upto = math.min(from + 2 * CHUNK - 1, #records)
  redis.call('XADD', KEYS[5], '*', unpack(records, from, upto))
end
return table.concat(result)
