-- Give claims back unattempted: to the end of the lane, with the same attempt number. What was
-- suspect stays suspect, with its strikes.
-- KEYS stream strikes; ARGV group, MessagePack list of {id consumer token suspect}
-- Returns how many were still held.
local released = 0
for _, claim in ipairs(cmsgpack.unpack(ARGV[2])) do
  local id, consumer, token, suspect = claim[1], claim[2], claim[3], claim[4]
  if holds(KEYS[1], ARGV[1], id, consumer, token) then
    local fields = fields_of(KEYS[1], id)
    free(KEYS[1], ARGV[1], id)
    if fields then
      local flags = get_field(fields, 'flags')
      if suspect then flags = is_replay(fields) and 'replay suspect' or 'suspect' end
      local entry = entry_of(fields, get_field(fields, 'attempt'), flags)
      local new = redis.call('XADD', KEYS[1], '*', unpack(entry))
      local strikes = redis.call('HGET', KEYS[2], id)
      if strikes then
        redis.call('HDEL', KEYS[2], id)
        redis.call('HSET', KEYS[2], new, strikes)
      end
      released = released + 1
    end
  end
end
return released
