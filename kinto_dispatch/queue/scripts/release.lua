-- Give claims back unattempted: to the end of the lane, with the same attempt number and age. What
-- was suspect stays suspect, with its strikes.
-- KEYS stream strikes attempts waiting opened members
-- ARGV group, MessagePack list of {id consumer token suspect}
-- Returns how many were still held.
local digests = digests_of(KEYS[1], KEYS[3], KEYS[4], KEYS[5], KEYS[6])
local released = 0
for _, claim in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, consumer, token, suspect = claim[1], claim[2], claim[3], claim[4]
  if holds(KEYS[1], ARGV[1], id, consumer, token) then
    local fields = fields_of(KEYS[1], id)
    free(KEYS[1], ARGV[1], id)
    if fields then
      local flags = flags_of(fields, suspect)
      local entry = entry_of(fields, get_field(fields, 'attempt'), flags)
      entry[#entry + 1], entry[#entry + 2] = 'since', since_of(id, fields)
      local new = redis.call('XADD', KEYS[1], '*', unpack(entry))
      local strikes = redis.call('HGET', KEYS[2], id)
      if strikes then
        redis.call('HDEL', KEYS[2], id)
        redis.call('HSET', KEYS[2], new, strikes)
      end
      move_digest(digests, id, new)
      released = released + 1
    end
  end
end
return released
