-- What the scripts of counters share: the clock, exact arithmetic, and how states are written.
--
-- All numbers are whole and below 2^53, where Lua's are exact; they are written by `text`, never by Lua's own %.14g.
-- KEYS are a tenant's: `q:{tenant}:…` holds a rate or a quota, `qs:{tenant}:…` slots, `qp:{tenant}:…` an open permit.
--   a rate:   r TAT PART BURST UNITS/PER     TAT in whole microseconds since the epoch, PART in 1/UNITS of one
--   a quota:  q START END USED PERIOD        the window in microseconds since the epoch, END excluded
--   slots:    a sorted set of permits, by when they expire
--   a permit: UNTIL, then per charge LENGTH WHAT;NAME, where NAME has LENGTH bytes and follows the tenant's tag

local EXACT = 9007199254740991
local BACKLOG_MAX = 4503599627370496
local CLOCK_TOLERANCE = 1000000
local MICROS = { s = 1000000, min = 60000000, h = 3600000000 }

local function text(number)
  return string.format('%.0f', number)
end

-- Microseconds since the epoch: those that are given, or Redis' own.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000000 + tonumber(time[2])
end

-- The milliseconds for which a key is needed that rests at this microsecond.
local function lifetime(rests, now, least)
  return text(math.max(least, math.ceil((rests - now) / 1000)))
end

local function is_slots(key)
  return string.sub(key, 1, 3) == 'qs:'
end

-- The whole part and the rest of a * b / by, in 16-bit digits of a: a < 2^53, b and by < 2^32.
local function part_of(a, b, by)
  local whole, rest, place = 0, 0, 281474976710656
  while place >= 1 do
    local digit = math.floor(a / place)
    a = a - digit * place
    local ticks = rest * 65536 + digit * b
    whole = whole * 65536 + math.floor(ticks / by)
    rest = ticks % by
    place = place / 65536
  end
  return whole, rest
end

-- A bucket as it was written; nothing for what is no bucket.
local function bucket_of(state)
  if not state then
    return nil
  end
  local tat, part, burst, rate, units, per =
    string.match(state, '^r (%-?%d+) (%d+) (%d+) ((%d+)/(%a+))$')
  if not tat then
    return nil
  end
  return {
    tat = tonumber(tat), part = tonumber(part), burst = tonumber(burst),
    rate = rate, units = tonumber(units), micros = MICROS[per],
  }
end

-- What was used of a bucket and has not drained, in whole microseconds of this rate and the rest (Bucket::backlog). More
-- than the burst means that the clock stepped back: the bucket then has `bound`, what it is to be written down to.
local function backlog(bucket, rate, units, per, now)
  if not bucket or bucket.tat < now then
    return 0, 0
  end
  local whole, part = bucket.tat - now, bucket.part
  -- Two units below the burst, rounding does not matter.
  if whole * bucket.units > (bucket.burst - 2) * bucket.micros then
    local most, rest = part_of(bucket.burst, bucket.micros, bucket.units)
    if whole > most or (whole == most and part > rest) then
      whole, part = most, rest
      bucket.bound = { whole, part }
    end
  end
  if bucket.rate == rate then
    return whole, part
  end
  -- An edit keeps the units, rounded up, and not the time.
  local used, ticks = part_of(whole, bucket.units, bucket.micros)
  used = used + math.ceil((ticks + part) / bucket.micros)
  whole, part = part_of(used, MICROS[per], units)
  if whole >= BACKLOG_MAX then
    return BACKLOG_MAX, 0
  end
  return whole, part
end

-- Two times of the same rate, added.
local function add(whole, part, more, rest, units)
  whole, part = whole + more, part + rest
  if part >= units then
    return whole + 1, part - units
  end
  return whole, part
end

-- Writes a bucket that has so much backlog.
local function write_bucket(key, whole, part, burst, rate, now, least)
  local tat = math.min(now + whole, EXACT)
  local state = 'r ' .. text(tat) .. ' ' .. text(part) .. ' ' .. burst .. ' ' .. rate
  redis.call('SET', key, state, 'PX', lifetime(tat + 1, now, least))
  return state
end

-- A quota as it was written: start, end, used, period; nothing for what is no quota.
local function quota_of(state)
  if not state then
    return nil
  end
  local start, stop, used, period = string.match(state, '^q (%-?%d+) (%-?%d+) (%d+) ([%a_]+)$')
  if not start then
    return nil
  end
  return tonumber(start), tonumber(stop), tonumber(used), period
end

local function quota_state(start, stop, used, period)
  local most = text(math.max(0, math.min(used, EXACT)))
  return 'q ' .. text(start) .. ' ' .. text(stop) .. ' ' .. most .. ' ' .. period
end
