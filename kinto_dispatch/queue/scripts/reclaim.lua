-- Take over what has been idle for longer than its lease, oldest first; nothing of a paused lane,
-- and nothing before the server has been up for a lease: all leases end while it is away, and those
-- who live need the time to renew theirs. No more than most_bytes, or one entry alone.
-- KEYS stream strikes paused breaker limit attempts waiting opened members
-- ARGV group consumer lease_ms count probe interval_us burst most_bytes
-- Returns {{id token strikes fields}..., {id of an entry that is gone}...}.
local PAGE = 100
local digests = digests_of(KEYS[1], KEYS[6], KEYS[7], KEYS[8], KEYS[9])
local taken, gone, from, wanted = {}, {}, '-', tonumber(ARGV[4])
local bytes, most_bytes = 0, tonumber(ARGV[8])
if is_held_back(KEYS[3], KEYS[4], ARGV[5]) then return {taken, gone} end

local function has_been_up_ms()
  local info = redis.pcall('INFO', 'server')
  local seconds = not info.err and string.match(info, 'uptime_in_seconds:(%d+)')
  return seconds and (seconds + 1) * 1000 or math.huge
end

if has_been_up_ms() <= tonumber(ARGV[3]) then return {taken, gone} end

local left, _, bucket = tokens(KEYS[5], ARGV[6], ARGV[7])
wanted = math.min(wanted, left)

local function take_over(id, token)
  local claimed = redis.call(
    'XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, id, 'RETRYCOUNT', token
  )[1]
  if claimed and claimed[2] then
    taken[#taken + 1] = {id, token, redis.call('HGET', KEYS[2], id) or '0', claimed[2]}
    for _, value in ipairs(claimed[2]) do bytes = bytes + #value end
  else
    -- Deleted while it was pending: servers before 7.0 keep it in their list of what is pending.
    redis.call('XACK', KEYS[1], ARGV[1], id)
    redis.call('HDEL', KEYS[2], id)
    close_digest(digests, id, now_ms())
    gone[#gone + 1] = id
  end
end

local function wants_more()
  return #taken < wanted and bytes < most_bytes
end

while wants_more() do
  local page = redis.pcall('XPENDING', KEYS[1], ARGV[1], 'IDLE', ARGV[3], from, '+', PAGE)
  if not page[1] then break end
  for _, pending in ipairs(page) do
    if wants_more() then take_over(pending[1], pending[4] + 1) end
    from = '(' .. pending[1]
  end
end
take(bucket, #taken)
return {taken, gone}
