-- Deliveries that wait until they are made into one, a digest. It stands behind shared.lua.
-- A digest has a name. Of each at most one delivery is in the lane, so that what came later never
-- overtakes what came before. Three kinds of keys, here in a table `digests`:
--   waiting  sorted set: the name of each digest by when it shall be opened, in milliseconds;
--            +inf while a delivery of it is in the lane
--   opened   hash: from the id of that delivery's entry to the name
--   members  list, with the name behind the key: packed {key, body, due_ms, skipped}, where the
--            last is how many older versions it stands for, missing where all are delivered
local MOST_MEMBERS = 500
local MOST_BYTES = 1000000

local function digests_of(stream, attempts, waiting, opened, members)
  return {
    stream = stream, attempts = attempts, waiting = waiting, opened = opened, members = members,
    lane = string.match(stream, '{lane:(.*)}:stream$'),
  }
end

-- The record of a delivery that was not attempted, since it went into another one.
local function note(digests, key, outcome, into, now)
  redis.call('XADD', digests.attempts, '*', 'record', cjson.encode({
    event_id = string.match(key, '^[^:]*'), key = key, channel = digests.lane, attempt = 1,
    outcome = outcome, into = into, at = now / 1000, duration_seconds = 0,
  }))
end

-- The members that go into one delivery, the oldest first, taken from those that wait.
local function take_members(list)
  local members, bytes = {}, 0
  while #members < MOST_MEMBERS and bytes < MOST_BYTES do
    local packed = redis.call('LINDEX', list, 0)
    if not packed then break end
    local member = cmsgpack.unpack(packed)
    if #members > 0 and bytes + #member[2] > MOST_BYTES then break end
    redis.call('LPOP', list)
    members[#members + 1] = member
    bytes = bytes + #member[2]
  end
  return members
end

-- Several events in one body are a JSON text sequence (RFC 7464).
local function body_of(members)
  if #members == 1 then return members[1][2] end
  local bodies = {}
  for i, member in ipairs(members) do bodies[i] = '\30' .. member[2] .. '\n' end
  return table.concat(bodies)
end

-- Make what waits for this digest a delivery in the lane. Frees before it writes.
local function open_digest(digests, name, now)
  local members = take_members(digests.members .. name)
  local last = members[#members]
  if not last then
    redis.call('ZREM', digests.waiting, name)
    return
  end
  local key, flags = last[1], last[4] and 'skipped=' .. last[4] or ''
  if #members > 1 then
    key = key .. ':digest'
    for _, member in ipairs(members) do note(digests, member[1], 'joined', key, now) end
  end
  local id = redis.call(
    'XADD', digests.stream, '*',
    'key', key, 'body', body_of(members), 'attempt', '1', 'flags', flags
  )
  redis.call('HSET', digests.opened, id, name)
  redis.call('ZADD', digests.waiting, 'inf', name)
end

-- The delivery of a digest, if it was one, has left the lane: open the next when it is due.
local function close_digest(digests, id, now)
  local name = redis.call('HGET', digests.opened, id)
  if not name then return end
  redis.call('HDEL', digests.opened, id)
  local first = redis.call('LINDEX', digests.members .. name, 0)
  local due = first and cmsgpack.unpack(first)[3]
  if due and due > now then
    redis.call('ZADD', digests.waiting, due, name)
  else
    open_digest(digests, name, now)
  end
end

-- Let a delivery wait for its digest, or be the first of it where it has not to wait. Where only
-- the latest counts it takes the place of what waits.
local function collect(digests, name, key, body, window_ms, only_latest, now)
  local list, older, due, skipped = digests.members .. name, {}, now + window_ms, nil
  if only_latest then
    skipped = 0
    for i, packed in ipairs(redis.call('LRANGE', list, 0, -1)) do
      older[i] = cmsgpack.unpack(packed)
      skipped = skipped + (older[i][4] or 0) + 1
    end
    if older[1] then due = older[1][3] end
  end
  redis.call('RPUSH', list, cmsgpack.pack({key, body, due, skipped}))
  for _, member in ipairs(older) do
    redis.call('LPOP', list)
    note(digests, member[1], 'skipped', key, now)
  end
  local is_new = redis.call('ZADD', digests.waiting, 'NX', due, name) == 1
  if is_new and window_ms == 0 then open_digest(digests, name, now) end
end

-- Whether a newer version takes the place of a delivery that waited for its next attempt: only of
-- one that is about a latest version, which has a count of those that it skips.
local function replace_by_newer(digests, id, fields, now)
  local name = redis.call('HGET', digests.opened, id)
  local skipped = name and string.match(get_field(fields, 'flags'), 'skipped=(%d+)')
  local packed = skipped and redis.call('LINDEX', digests.members .. name, 0)
  if not packed then return false end
  local member = cmsgpack.unpack(packed)
  member[4] = (member[4] or 0) + skipped + 1
  redis.call('HDEL', digests.opened, id)
  redis.call('LSET', digests.members .. name, 0, cmsgpack.pack(member))
  note(digests, get_field(fields, 'key'), 'skipped', member[1], now)
  open_digest(digests, name, now)
  return true
end

-- The delivery of a digest stands in the lane under another id.
local function move_digest(digests, id, new)
  local name = redis.call('HGET', digests.opened, id)
  if not name then return end
  redis.call('HDEL', digests.opened, id)
  redis.call('HSET', digests.opened, new, name)
end
