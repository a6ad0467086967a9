-- Takes a step of a record that this fence holds (record::renew, complete, release, mark_unknown, clear).
--
-- KEYS: the record; its answer; the bytes of the tenant's answers.
-- ARGV: now or ''; the least time to live of a key in milliseconds; fence; the step, and
--   renew:    the lease
--   complete: status; the state: done, sealed, not_retained; what is kept of the answer; its bytes; how many a tenant may
--             have; the location, if any
-- Returns 'applied', 'already' or 'stale'.

-- Bytes are given back by these parts of a retention: at most so much of it late.
local PARTS = 64
local PART_MIN = 1000000

local now, least, step = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local record = fields_at(KEYS[1], now)
if not record or record[4] ~= ARGV[3] then
  return 'stale'
end
local retention = tonumber(record[6])

-- Takes so many bytes for a retention from now on, if there is room.
local function take(size, bound)
  local counted, sum = redis.call('HGETALL', KEYS[3]), 0
  for i = 1, #counted, 2 do
    if tonumber(counted[i]) <= now then
      redis.call('HDEL', KEYS[3], counted[i])
    else
      sum = sum + tonumber(counted[i + 1])
    end
  end
  if sum + size > bound then
    return false
  end
  local part = math.max(PART_MIN, math.ceil(retention / PARTS))
  local over = math.ceil((now + retention) / part) * part
  redis.call('HINCRBY', KEYS[3], text(over), text(size))
  prolong(KEYS[3], lifetime(over, now, least))
  return true
end

local function complete()
  local state = ARGV[6]
  if state ~= 'not_retained' then
    if take(tonumber(ARGV[8]), tonumber(ARGV[9])) then
      redis.call('SET', KEYS[2], ARGV[7], 'PX', lifetime(now + retention, now, least))
    else
      state = 'not_retained'
    end
  end
  if ARGV[10] then
    turn(KEYS[1], record, state, now, now, now, least, 'q', ARGV[5], 'l', ARGV[10])
  else
    turn(KEYS[1], record, state, now, now, now, least, 'q', ARGV[5])
  end
end

local leased, unknown = is_leased(record, now), is_unknown(record, now)
local waits = leased or unknown
if step == 'renew' and leased then
  local lease_until = math.max(tonumber(record[3]), now + tonumber(ARGV[5]))
  turn(KEYS[1], record, 'dispatched', lease_until, lease_until, now, least)
elseif step == 'complete' and waits then
  complete()
elseif step == 'release' and waits then
  release(KEYS[1], record, now, least)
elseif step == 'mark_unknown' and leased then
  turn(KEYS[1], record, 'unknown', now, now, now, least)
elseif step == 'clear' and unknown then
  redis.call('DEL', KEYS[1])
elseif step == 'complete' or (step == 'mark_unknown' and unknown) then
  return 'already'
else
  return 'stale'
end
return 'applied'
