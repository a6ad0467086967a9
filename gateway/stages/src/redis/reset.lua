-- Sets rates and quotas to unused (Tally::reset).
--
-- KEYS: the counters of rates and quotas.
-- ARGV: now or ''; the least time to live of a key in milliseconds; then for each counter the period and its present
--   window's start and end, or '' three times for a rate.
-- Returns whether that was done: not where the clock is outside a window that was given; and now.

local now, least = clock(ARGV[1]), tonumber(ARGV[2])
for i = 1, #KEYS do
  local at = 3 * i
  if ARGV[at] ~= '' and (now < tonumber(ARGV[at + 1]) or now >= tonumber(ARGV[at + 2])) then
    return { 0, now }
  end
end
for i, key in ipairs(KEYS) do
  local at = 3 * i
  if ARGV[at] == '' then
    redis.call('DEL', key)
  elseif redis.call('EXISTS', key) == 1 then
    local start, stop = tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
    redis.call('SET', key, quota_state(start, stop, 0, ARGV[at]), 'PX', lifetime(stop, now, least))
  end
end
return { 1, now }
