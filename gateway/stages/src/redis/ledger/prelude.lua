-- What the scripts of idempotency records share: the clock, and how a record is written.
--
-- All numbers are whole and below 2^53, where Lua's are exact; they are written by `text`. Times are microseconds since the
-- epoch. KEYS are a tenant's, all in one hash slot:
--   ik:{tenant}:DIGEST  a record: a hash of the fields below, and its nonce `n`
--   ia:{tenant}:DIGEST  its answer, when that is kept (StoredResponse::to_bytes), or sealed; the scripts only pass it on
--   il:{tenant}:LOOKUP  the records that a client's key may have: a sorted set of digests by fence
--   if:{tenant}         the newest fence
--   ib:{tenant}         bytes of answers that are kept, by when they expire: a hash
--   ib:{tenant}:records how many records there are, by when they expire: a hash
--   iw:{tenant}:NONCE   there, when this claim is withdrawn

local VERSION = '1'
-- version; state: dispatched, unknown, done, sealed, not_retained; the state's time; fence; expiry; retention; fingerprint;
-- lookup; route; owner; when it was claimed; status; location; '1' where it is in doubt (Record::in_doubt); sealed location;
-- bytes of the answer; the part in which the record is counted
local FIELDS = { 'v', 's', 't', 'f', 'e', 'm', 'p', 'k', 'r', 'o', 'c', 'q', 'l', 'd', 'x', 'z', 'b' }
-- What is counted ends with these parts of a retention: at most so much of it late.
local PARTS = 64
local PART_MIN = 1000000

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

-- How much is counted there that did not end.
local function counted(key, now)
  local parts, sum = redis.call('HGETALL', key), 0
  for i = 1, #parts, 2 do
    if tonumber(parts[i]) <= now then
      redis.call('HDEL', key, parts[i])
    else
      sum = sum + tonumber(parts[i + 1])
    end
  end
  return sum
end

-- Counts what expires then, and says in which part it is counted.
local function count(key, number, expires, retention, now, least)
  local part = math.max(PART_MIN, math.ceil(retention / PARTS))
  local over = math.ceil(expires / part) * part
  redis.call('HINCRBY', key, text(over), text(number))
  prolong(key, lifetime(over, now, least))
  return text(over)
end

-- Counts a record no longer.
local function uncount(records, fields)
  if fields[17] and redis.call('HINCRBY', records, fields[17], -1) <= 0 then
    redis.call('HDEL', records, fields[17])
  end
end

-- Turns a record into this state, with a retention from `since` on. More fields and values may follow.
local function turn(key, records, fields, state, time, since, now, least, ...)
  local retention = tonumber(fields[6])
  local expires = since + retention
  redis.call('HSET', key, 's', state, 't', text(time), 'e', text(expires), ...)
  redis.call('PEXPIRE', key, lifetime(expires, now, least))
  uncount(records, fields)
  redis.call('HSET', key, 'b', count(records, 1, expires, retention, now, least))
end

-- Deletes a record.
local function delete(key, records, fields)
  redis.call('DEL', key)
  uncount(records, fields)
end

-- Frees a key whose request had no effect (record::release): an earlier one that is in doubt may have had some.
local function release(key, records, fields, now, least)
  if fields[14] == '1' then
    turn(key, records, fields, 'unknown', now, now, now, least)
  else
    delete(key, records, fields)
  end
end
