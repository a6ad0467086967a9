-- Ends a permit: frees its slots, gives quotas back or charges what is more (Tally::settle). Nothing the second time.
--
-- KEYS: the permit; then the counters that it may have charged. What it did charge, the permit itself says.
-- ARGV: now or ''; the least time to live of a key in milliseconds; the tenant's tag; 'commit', 'refund' or what it cost;
--   for how many milliseconds a permit that is not there counts as over, so that a late reserve charges nothing, or ''
-- Returns whether there was a permit to settle.

local now, least, tag, how = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[3], ARGV[4]
local permit = redis.call('GET', KEYS[1])
if not permit or permit == 'over' then
  if ARGV[5] ~= '' then
    redis.call('SET', KEYS[1], 'over', 'PX', ARGV[5])
  end
  return 0
end
redis.call('DEL', KEYS[1])
local digits = string.match(permit, '^%d+')
if tonumber(digits) <= now then
  return 0
end

local actual = tonumber(how)
local id = string.sub(KEYS[1], 4 + #tag)

local function correct_quota(key, what)
  local cost, paid = string.match(what, '^q (%d+) (%-?%d+)')
  local start, stop, used, period = quota_of(redis.call('GET', key))
  -- A window that is over, or another one, gets nothing back.
  if start and start == tonumber(paid) then
    used = used + (actual or 0) - tonumber(cost)
    redis.call('SET', key, quota_state(start, stop, used, period), 'KEEPTTL')
  end
end

local function charge_rate(key, what)
  local cost, burst, rate, units, per = string.match(what, '^r (%d+) (%d+) ((%d+)/(%a+))$')
  local state = redis.call('GET', key)
  local bucket = bucket_of(state)
  -- What is no bucket belongs to a limit whose kind was edited.
  local more = actual - tonumber(cost)
  if more > 0 and (bucket or not state) then
    units = tonumber(units)
    local owed, rest = backlog(bucket, rate, units, per, now)
    local price, ticks = part_of(more, MICROS[per], units)
    local whole, part = add(owed, rest, price, ticks, units)
    -- Of what does not fit, as much as the burst has room for (Bucket::charge).
    local room, left = part_of(tonumber(burst), MICROS[per], units)
    if owed > room or (owed == room and rest > left) then
      room, left = owed, rest
    end
    if whole > room or (whole == room and part > left) then
      whole, part = room, left
    end
    write_bucket(key, whole, part, burst, rate, now, least)
  end
end

local at = #digits + 1
while at <= #permit do
  local _, last, length, what = string.find(permit, '^ (%d+) ([^;]*);', at)
  local name = string.sub(permit, last + 1, last + tonumber(length))
  at = last + tonumber(length) + 1
  local kind = string.sub(what, 1, 1)
  if kind == 's' then
    redis.call('ZREM', 'qs:' .. tag .. name, id)
  elseif kind == 'q' and how ~= 'commit' then
    correct_quota('q:' .. tag .. name, what)
  elseif kind == 'r' and actual then
    charge_rate('q:' .. tag .. name, what)
  end
end
return 1
