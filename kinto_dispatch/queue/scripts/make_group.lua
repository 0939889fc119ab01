-- Make the group of a lane, from the start of the lane: one that was lost is made anew for all that
-- is there. Passes where memory is full: without it nothing would ever leave the lane.
-- KEYS stream; ARGV group
pass_where_full(KEYS[1])
return redis.pcall('XGROUP', 'CREATE', KEYS[1], ARGV[1], '0', 'MKSTREAM')
