-- What several scripts need; it stands before each of them when they are loaded.

-- The server's time in milliseconds.
local function now_ms()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
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

-- An entry of a lane, to be added again. Anything may have been added by hand: what we do not know
-- is left behind.
local function entry_of(fields, attempt, flags)
  return {
    'key', get_field(fields, 'key'), 'body', get_field(fields, 'body'),
    'attempt', attempt, 'flags', flags,
  }
end

local function is_replay(fields)
  return string.find(get_field(fields, 'flags'), 'replay', 1, true) ~= nil
end

local function free(stream, group, id)
  redis.call('XACK', stream, group, id)
  redis.call('XDEL', stream, id)
end
