-- What the living workers said of themselves.
-- KEYS until info
local living = {}
for _, worker in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '(' .. now_ms(), '+inf')) do
  living[#living + 1] = redis.call('HGET', KEYS[2], worker) or nil
end
return living
