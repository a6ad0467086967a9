-- Claims a key and marks it dispatched, or tells what is there (record::claim).
--
-- KEYS: the record; its answer; the index; the newest fence; this claim's withdrawal; how many records the tenant has; the
--   bytes of its answers.
-- ARGV: now or ''; the least time to live of a key in milliseconds; lease; retention; '1' where an unknown outcome is
--   redriven; nonce; fingerprint, lookup, route, owner; digest; the bytes of a record; the bytes of all that a tenant may
--   have.
-- Returns a word, now, and
--   held:      the fence
--   redriven:  the fence; the outcome of an earlier dispatch stays in doubt
--   found:     the record's fields, and its answer where the request is the same and an answer is kept
--   withdrawn: nothing more: whoever claims has given up
--   full:      nothing more: the tenant has no room for one more record

-- The index has room for more than operators are shown: some of its records were released.
local INDEX_MAX = 64
-- Longer than any record lives, in milliseconds: 15 days.
local FENCE_LIFETIME = '1296000000'
-- Renewals prolong the record and know no index, which lives so much longer, in microseconds: 3 h. An upstream has 1 h.
local INDEX_SPARE = 3 * 3600 * 1000000

local now, least = clock(ARGV[1]), tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[5]) == 1 then
  return { 'withdrawn', now }
end

local found = fields_at(KEYS[1], now)
if found then
  local is_same = found[7] == ARGV[7]
  if not (is_same and ARGV[5] == '1' and is_unknown(found, now)) then
    return { 'found', now, found, is_same and (found[2] == 'done' or found[2] == 'sealed') and redis.call('GET', KEYS[2]) }
  end
end

-- By Redis' own clock, whoever's decides: fences grow also when Redis has forgotten what it gave.
local newest = tonumber(redis.call('GET', KEYS[4]) or '0')
if found then
  newest = math.max(newest, tonumber(found[4]))
end
local fence = text(math.max(newest + 1, clock('')))
local lease_until, retention = now + tonumber(ARGV[3]), tonumber(ARGV[4])
local expires = lease_until + retention

-- The record comes last: nothing is claimed where Redis refuses one of these, for want of memory or else.
redis.call('SET', KEYS[4], fence, 'PX', FENCE_LIFETIME)
if not found and (counted(KEYS[6], now) + 1) * tonumber(ARGV[12]) + counted(KEYS[7], now) > tonumber(ARGV[13]) then
  return { 'full', now }
end
redis.call('ZADD', KEYS[3], fence, ARGV[11])
redis.call('ZREMRANGEBYRANK', KEYS[3], 0, -1 - INDEX_MAX)
prolong(KEYS[3], lifetime(expires + INDEX_SPARE, now, least))
redis.call('DEL', KEYS[1], KEYS[2])
if found then
  uncount(KEYS[6], found)
end
redis.call('HSET', KEYS[1], 'v', VERSION, 's', 'dispatched', 't', text(lease_until), 'f', fence, 'e', text(expires),
  'm', ARGV[4], 'p', ARGV[7], 'k', ARGV[8], 'r', ARGV[9], 'o', ARGV[10], 'c', text(now), 'n', ARGV[6],
  'd', found and '1' or '0', 'b', count(KEYS[6], 1, expires, retention, now, least))
redis.call('PEXPIRE', KEYS[1], lifetime(expires, now, least))
return { found and 'redriven' or 'held', now, fence }
