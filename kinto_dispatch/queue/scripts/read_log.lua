-- Entries of the log, until there are enough of them or of their bytes.
-- KEYS stream; ARGV after count most_bytes
-- Returns {{id fields}...}, at least one if there is one.
local PAGE = 50
local found, bytes, from, left = {}, 0, '(' .. ARGV[1], tonumber(ARGV[2])
while left > 0 do
  local page = redis.call('XRANGE', KEYS[1], from, '+', 'COUNT', math.min(PAGE, left))
  for _, entry in ipairs(page) do
    for _, value in ipairs(entry[2]) do bytes = bytes + #value end
    if #found > 0 and bytes > tonumber(ARGV[3]) then return found end
    found[#found + 1] = entry
    from = '(' .. entry[1]
  end
  left = #page < PAGE and 0 or left - PAGE
end
return found
