-- What several scripts need; it stands before each of them when they are loaded.

-- The server's time in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Let what follows pass where memory is full: a script that has written may go on writing, and this
-- writes nothing. For what is small, or makes room for more than it takes.
local function pass_where_full(stream)
  redis.pcall('XDEL', stream, '0-0')
end

-- The state of a breaker, which is the first word of its text.
local function state_of(breaker)
  return string.match(redis.call('GET', breaker) or '', '^%S+') or 'closed'
end

-- Whether nobody shall claim anything, unless as a probe ('1') of a lane that is not paused.
local function is_held_back(paused, breaker, probe)
  if redis.call('EXISTS', paused) == 1 then return true end
  return probe ~= '1' and state_of(breaker) ~= 'closed'
end

-- A rate limit is a bucket of tokens that fills at a steady rate (GCRA). All that is kept of it is
-- when it will be full again, in microseconds. An interval of 0 is no limit.
-- Returns how many tokens are there, milliseconds until there is one, and what to give to take.
local function tokens(limit, interval, burst)
  interval, burst = tonumber(interval), tonumber(burst)
  if interval == 0 then return math.huge, 0 end
  local time = redis.call('TIME')
  local now = time[1] * 1000000 + time[2]
  local missing = math.max(0, (tonumber(redis.call('GET', limit) or '') or now) - now)
  -- Emptier than empty: it was another limit, or the clock of another server.
  if missing > interval * burst + 1000 then missing = 0 end
  local left = math.floor(burst - missing / interval + 1e-6)  -- as fractions are rounded
  local wait = left > 0 and 0 or math.ceil((missing - interval * (burst - 1)) / 1000)
  return left, wait, {limit, interval, now + missing, now}
end

-- Take tokens that are there. Writes, so that something has to be freed or claimed before it where
-- memory is full.
local function take(bucket, count)
  if not bucket or count == 0 then return end
  local limit, interval, full, now = unpack(bucket)
  full = math.ceil(full + count * interval)
  redis.call('SET', limit, string.format('%.0f', full), 'PX', math.ceil((full - now) / 1000))
end

-- The pending record of an entry, {id, consumer, idle, deliveries}, or nil. A lane whose group is
-- gone has nothing pending.
local function pending_of(stream, group, id)
  return redis.pcall('XPENDING', stream, group, id, id, 1)[1]
end

-- Whether that consumer still holds the entry under that token. Whoever takes an entry over raises
-- its count of deliveries, so nobody ever gets the same token twice.
local function holds(stream, group, id, consumer, token)
  local pending = pending_of(stream, group, id)
  return pending and pending[2] == consumer and pending[4] == tonumber(token)
end

-- The fields of an entry, or nil if it is gone.
local function fields_of(stream, id)
  local entry = redis.call('XRANGE', stream, id, id)[1]
  return entry and entry[2]
end

local function get_field(fields, name)
  for i = 1, #fields, 2 do
    if fields[i] == name then return fields[i + 1] end
  end
  return ''
end

-- How many entries are pending in a group, and the last one that it gave to anybody.
local function progress_of(stream, name)
  local groups = redis.pcall('XINFO', 'GROUPS', stream)
  if not groups.err then
    for _, group in ipairs(groups) do
      if get_field(group, 'name') == name then
        return get_field(group, 'pending'), get_field(group, 'last-delivered-id')
      end
    end
  end
  return 0, '0-0'
end

-- The flags of an entry, which are words, without 'suspect' or with it.
local function flags_of(fields, is_suspect)
  local words = {}
  for word in string.gmatch(get_field(fields, 'flags'), '%S+') do
    if word ~= 'suspect' then words[#words + 1] = word end
  end
  if is_suspect then words[#words + 1] = 'suspect' end
  return table.concat(words, ' ')
end

local KNOWN = {
  key = true, body = true, attempt = true, flags = true, since = true,
  kind = true, reason = true, attempts = true, at = true,
}
local MOST_UNKNOWN = 32

-- Add to the fields of an entry those of an older one that we do not know: they are of a later
-- release, which shall find them again.
local function keep_unknown(entry, fields)
  for i = 1, math.min(#fields, MOST_UNKNOWN), 2 do
    if not KNOWN[fields[i]] then
      entry[#entry + 1], entry[#entry + 2] = fields[i], fields[i + 1]
    end
  end
  return entry
end

-- An entry of a lane, to be added again.
local function entry_of(fields, attempt, flags)
  return keep_unknown({
    'key', get_field(fields, 'key'), 'body', get_field(fields, 'body'),
    'attempt', attempt, 'flags', flags,
  }, fields)
end

-- Since when an entry waits, in milliseconds: its id tells, unless it was given back.
local function since_of(id, fields)
  local since = string.match(get_field(fields, 'since'), '^%d+$')
  return since and #since < 16 and since or string.match(id, '^%d+')
end

local function free(stream, group, id)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
end
