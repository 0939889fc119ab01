-- Set the cursor of a lane to where it begins, if it has none. Passes where memory is full.
-- KEYS cursor stream; ARGV start
if redis.call('EXISTS', KEYS[1]) == 1 then return 0 end
pass_where_full(KEYS[2])
redis.call('SET', KEYS[1], ARGV[1])
return 1
