-- Undoes a claim of which nobody heard: releases what it holds, and lets it hold nothing if it comes later.
--
-- KEYS: the record; the claim's withdrawal; how many records the tenant has.
-- ARGV: now or ''; the least time to live of a key in milliseconds; nonce; for how many milliseconds it may still come.

local now = clock(ARGV[1])
local record = fields_at(KEYS[1], now)
if record and redis.call('HGET', KEYS[1], 'n') == ARGV[3] and (is_leased(record, now) or is_unknown(record, now)) then
  release(KEYS[1], KEYS[3], record, now, tonumber(ARGV[2]))
end
-- Last: what takes memory is allowed, even where there is none, to whoever gave some back.
redis.call('SET', KEYS[2], '', 'PX', ARGV[4])
return 1
