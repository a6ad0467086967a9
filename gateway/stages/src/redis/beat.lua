-- Says that a node lives, and counts those that do.
--
-- KEYS: the sorted set of nodes, by when they count as gone.
-- ARGV: the node, or '' for one that only looks; for how many microseconds it counts as living.
-- Returns how many nodes live.

local now = clock('')
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', text(now))
if ARGV[1] ~= '' then
  redis.call('ZADD', KEYS[1], text(now + ARGV[2]), ARGV[1])
  redis.call('PEXPIRE', KEYS[1], text(math.ceil(ARGV[2] / 1000)))
end
return redis.call('ZCARD', KEYS[1])
