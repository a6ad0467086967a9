-- What counters hold (Tally::peek). KEYS: the counters. ARGV: now or ''. Returns now, then each state.

local now = clock(ARGV[1])
local states = {}
for i, key in ipairs(KEYS) do
  if is_slots(key) then
    states[i] = redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
  else
    states[i] = redis.call('GET', key)
  end
end
return { now, unpack(states) }
