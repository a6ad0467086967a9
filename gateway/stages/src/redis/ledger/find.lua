-- Tells records.
--
-- KEYS: the records; then their answers, in the same order.
-- ARGV: now or ''; the least time to live, of no use here; '1' where answers are told.
-- Returns now, and of each record its fields and its answer, or whether there is one; nothing of those that expired.

local now, found, all = clock(ARGV[1]), {}, #KEYS / 2
for i = 1, all do
  local fields = fields_at(KEYS[i], now)
  found[i] = fields and { fields, redis.call(ARGV[3] == '1' and 'GET' or 'EXISTS', KEYS[all + i]) } or false
end
return { now, found }
