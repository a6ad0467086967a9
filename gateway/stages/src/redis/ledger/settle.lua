-- Takes a step of a record that this fence holds (record::renew, complete, release, mark_unknown, clear).
--
-- KEYS: the record; its answer; the bytes of the tenant's answers; how many records it has.
-- ARGV: now or ''; the least time to live of a key in milliseconds; fence; the step, and
--   renew:    the lease
--   complete: status; the state: done, sealed, not_retained; what is kept of the answer; its bytes; how many a tenant may
--             have; the location, if any: its field, and itself
-- Returns 'applied', 'already' or 'stale'.

local now, least, step = clock(ARGV[1]), tonumber(ARGV[2]), ARGV[4]
local record = fields_at(KEYS[1], now)
if not record or record[4] ~= ARGV[3] then
  return 'stale'
end
local retention = tonumber(record[6])

-- Takes so many bytes for a retention from now on, if there is room.
local function take(size, bound)
  if counted(KEYS[3], now) + size > bound then
    return false
  end
  count(KEYS[3], size, now + retention, retention, now, least)
  return true
end

-- As much as there is room for (Answer::within).
local function complete()
  local state, size, bound = ARGV[6], tonumber(ARGV[8]), tonumber(ARGV[9])
  local field, location = ARGV[10], ARGV[11]
  if state ~= 'not_retained' and take(size, bound) then
    redis.call('SET', KEYS[2], ARGV[7], 'PX', lifetime(now + retention, now, least))
  else
    state, size = 'not_retained', location and #location or 0
    if location and not take(size, bound) then
      location, size = nil, 0
    end
  end
  if location then
    redis.call('HSET', KEYS[1], field, location)
  end
  turn(KEYS[1], KEYS[4], record, state, now, now, now, least, 'q', ARGV[5], 'z', text(size))
end

local leased, unknown = is_leased(record, now), is_unknown(record, now)
local waits = leased or unknown
if step == 'renew' and leased then
  local lease_until = math.max(tonumber(record[3]), now + tonumber(ARGV[5]))
  turn(KEYS[1], KEYS[4], record, 'dispatched', lease_until, lease_until, now, least)
elseif step == 'complete' and waits then
  complete()
elseif step == 'release' and waits then
  release(KEYS[1], KEYS[4], record, now, least)
elseif step == 'mark_unknown' and leased then
  turn(KEYS[1], KEYS[4], record, 'unknown', now, now, now, least)
elseif step == 'clear' and unknown then
  delete(KEYS[1], KEYS[4], record)
elseif step == 'complete' or (step == 'mark_unknown' and unknown) then
  return 'already'
else
  return 'stale'
end
return 'applied'
