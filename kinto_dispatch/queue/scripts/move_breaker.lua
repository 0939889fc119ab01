-- Change a breaker if nobody else did meanwhile.
-- KEYS breaker; ARGV before after, both '' for none
-- Returns 1 if it did.
if (redis.call('GET', KEYS[1]) or '') ~= ARGV[1] then return 0 end
-- First of all, since a script that has freed may write where memory is full.
redis.call('DEL', KEYS[1])
if ARGV[2] ~= '' then redis.call('SET', KEYS[1], ARGV[2]) end
return 1
