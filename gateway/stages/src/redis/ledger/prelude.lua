-- What the scripts of idempotency records share: the clock, and how a record is written.
--
-- All numbers are whole and below 2^53, where Lua's are exact; they are written by `text`. Times are microseconds since the
-- epoch. KEYS are a tenant's, all in one hash slot:
--   ik:{tenant}:DIGEST  a record: a hash of the fields below, and its nonce `n`
--   ia:{tenant}:DIGEST  its answer, when that is kept (StoredResponse::to_bytes), or sealed; the scripts only pass it on
--   il:{tenant}:LOOKUP  the records that a client's key may have: a sorted set of digests by fence
--   if:{tenant}         the newest fence
--   ib:{tenant}         bytes of answers that are kept, by when they expire: a hash
--   iw:{tenant}:NONCE   there, when this claim is withdrawn

local VERSION = '1'
-- version; state: dispatched, unknown, done, sealed, not_retained; the state's time; fence; expiry; retention; fingerprint;
-- lookup; route; owner; when it was claimed; status; location; '1' where it is in doubt (Record::in_doubt)
local FIELDS = { 'v', 's', 't', 'f', 'e', 'm', 'p', 'k', 'r', 'o', 'c', 'q', 'l', 'd' }

local function text(number)
  return string.format('%.0f', number)
end

-- Those that are given, or Redis' own.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The milliseconds for which a key is needed until then.
local function lifetime(expires, now, least)
  return text(math.max(least, math.ceil((expires - now) / 1000)))
end

-- Makes a key live that long at least.
local function prolong(key, needed)
  if redis.call('PTTL', key) < tonumber(needed) then
    redis.call('PEXPIRE', key, needed)
  end
end

-- The fields of the record, in the order of FIELDS; nothing where there is none or it expired.
local function fields_at(key, now)
  local fields = redis.call('HMGET', key, unpack(FIELDS))
  if not fields[1] then
    return nil
  end
  if fields[1] ~= VERSION then
    error('an idempotency record of version ' .. fields[1])
  end
  return now < tonumber(fields[5]) and fields or nil
end

-- Whether the holder may be at work; else, of what is not answered, nobody knows how it ended (Record::state_at).
local function is_leased(fields, now)
  return fields[2] == 'dispatched' and now < tonumber(fields[3])
end

local function is_unknown(fields, now)
  return fields[2] == 'unknown' or (fields[2] == 'dispatched' and not is_leased(fields, now))
end

-- Turns a record into this state, with a retention from `since` on. More fields and values may follow.
local function turn(key, fields, state, time, since, now, least, ...)
  local expires = since + tonumber(fields[6])
  redis.call('HSET', key, 's', state, 't', text(time), 'e', text(expires), ...)
  redis.call('PEXPIRE', key, lifetime(expires, now, least))
end

-- Frees a key whose request had no effect (record::release): an earlier one that is in doubt may have had some.
local function release(key, fields, now, least)
  if fields[14] == '1' then
    turn(key, fields, 'unknown', now, now, now, least)
  else
    redis.call('DEL', key)
  end
end
