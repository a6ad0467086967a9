-- Charges all limits of a demand, or none (Tally::reserve).
--
-- KEYS: the permit; then each limit's counter.
-- ARGV: now or '' for Redis' own; the permit's id; its time to live in microseconds; the cost; '1' where the cost may be
--   another one in the end; the least time to live of a key in milliseconds; the tenant's tag `{tenant}:`;
--   then per limit its kind and '1' where it only observes, and
--     r: the rate, its units, its unit of time, the burst, the burst's time (whole, part), the cost's time (whole, part)
--     q: the period, the amount, the present window's start and end
--     s: how many there are
-- Returns a word, now, and
--   admitted: per limit '1' where it was charged, as one text; then the states afterwards
--   open:     the permit, which was charged before; then the states
--   refused:  '' and the states; nothing was charged
--   again:    nothing more: the clock is outside a window that was given
--   over:     nothing more: the permit was settled before it was asked for

local now = clock(ARGV[1])
local id, ttl, cost, later = ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5] == '1'
local least, tag = tonumber(ARGV[6]), ARGV[7]

local permit = redis.call('GET', KEYS[1])
if permit == 'over' then
  return { 'over', now }
end
local open = permit and tonumber(string.match(permit, '^%d+')) > now

local states, charges, bounds, refused = {}, {}, {}, false
local at = 8
for i = 2, #KEYS do
  local key, kind, observes = KEYS[i], ARGV[at], ARGV[at + 1] == '1'
  local fits, charge
  if kind == 'r' then
    local rate, units, per, burst = ARGV[at + 2], tonumber(ARGV[at + 3]), ARGV[at + 4], ARGV[at + 5]
    local state = redis.call('GET', key)
    local bucket = bucket_of(state)
    local whole, part = backlog(bucket, rate, units, per, now)
    if bucket and bucket.bound then
      bounds[key] = bucket
    end
    whole, part = add(whole, part, tonumber(ARGV[at + 8]), tonumber(ARGV[at + 9]), units)
    local room, rest = tonumber(ARGV[at + 6]), tonumber(ARGV[at + 7])
    fits = cost == 0 or whole < room or (whole == room and part <= rest)
    states[i - 1] = state
    charge = { key = key, kind = kind, whole = whole, part = part, burst = burst, rate = rate }
    at = at + 10
  elseif kind == 'q' then
    local period, amount = ARGV[at + 2], tonumber(ARGV[at + 3])
    local from, to = tonumber(ARGV[at + 4]), tonumber(ARGV[at + 5])
    if not open and (now < from or now >= to) then
      return { 'again', now }
    end
    local state = redis.call('GET', key)
    local start, stop, used, counted = quota_of(state)
    if not start then
      start, stop, used = from, to, 0
    elseif counted ~= period or now < start - CLOCK_TOLERANCE or now >= stop then
      -- What lies in the new window wholly stays used (Spent::at).
      used = (now < stop and from <= start) and used or 0
      start, stop = from, to
    end
    fits = cost == 0 or used + cost <= amount
    states[i - 1] = state
    charge = { key = key, kind = kind, start = start, stop = stop, used = used + cost, period = period }
    at = at + 6
  else
    local held = redis.call('ZCOUNT', key, '(' .. text(now), '+inf')
    fits = held < tonumber(ARGV[at + 2])
    states[i - 1] = held
    charge = { key = key, kind = kind, held = held + 1 }
    at = at + 3
  end
  refused = refused or not (fits or observes)
  charges[i - 1] = fits and charge
end

if open then
  return { 'open', now, permit, unpack(states) }
end
if refused then
  -- After a step back of the clock, what is used drains from now on (Bucket::bound).
  for key, bucket in pairs(bounds) do
    write_bucket(key, bucket.bound[1], bucket.bound[2], text(bucket.burst), bucket.rate, now, least)
  end
  return { 'refused', now, '', unpack(states) }
end

local until_, named, charged = now + ttl, {}, {}
for i, charge in ipairs(charges) do
  charged[i] = charge and '1' or '0'
  if charge then
    local key, what = charge.key, nil
    if charge.kind == 'r' then
      if cost > 0 then
        states[i] = write_bucket(key, charge.whole, charge.part, charge.burst, charge.rate, now, least)
      end
      what = later and ('r ' .. text(cost) .. ' ' .. charge.burst .. ' ' .. charge.rate)
    elseif charge.kind == 'q' then
      states[i] = quota_state(charge.start, charge.stop, charge.used, charge.period)
      redis.call('SET', key, states[i], 'PX', lifetime(charge.stop, now, least))
      what = 'q ' .. text(cost) .. ' ' .. text(charge.start) .. ' ' .. text(charge.stop)
    else
      redis.call('ZREMRANGEBYSCORE', key, '-inf', text(now))
      redis.call('ZADD', key, text(until_), id)
      local needed = lifetime(until_, now, least)
      if redis.call('PTTL', key) < tonumber(needed) then
        redis.call('PEXPIRE', key, needed)
      end
      states[i] = charge.held
      what = 's'
    end
    if what then
      local name = string.sub(key, (charge.kind == 's' and 4 or 3) + #tag)
      named[#named + 1] = ' ' .. #name .. ' ' .. what .. ';' .. name
    end
  end
end
if #named > 0 then
  redis.call('SET', KEYS[1], text(until_) .. table.concat(named), 'PX', lifetime(until_, now, least))
end
return { 'admitted', now, table.concat(charged), unpack(states) }
