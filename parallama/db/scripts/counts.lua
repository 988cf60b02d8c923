-- Counts of limits that several processes share. Each call is one step for all of them. Redis 6.2, 7, Valkey.
-- These are windows and buckets; requests.lua and operations.lua follow, as parts of one script.
--
-- KEYS[1] is the key of the epoch. The other keys begin as its name does, so they have its hash tag:
--   epoch             id, run id of the server, when reserving begins, the latest end of each calendar period
--   alive:<instance>  while a process says so
--   rows              of each process until when what it has settled is in the database
--   <id>:count:<name> what a counter holds: buckets, each of which time ends as a whole (`first` to `last`; of each:
--                     e ends at, u used, r reserved, n requests that have reserved nothing and are not over), their
--                     sums, and since which change it is known; of concurrency: id of a request -> its instance
--   <id>:counts       names of counters that were known
--   <id>:changed:<subject>, or `all` in its place: when the limits of a subject were changed, or those of all
--   <id>:held:<uuid>  what a request has reserved, and for which instance; <id>:done:<uuid>: that it is over
-- ARGV: operation, epoch, moment ('' for this server's clock), instance, windows (hour, day, month: four boundaries
-- each), and in JSON a list of what the operation takes.

local KEEP_S, DONE_S, ALIVE_S, DAY_S, EPOCH_S = 3600, 600, 30, 86400, 604800
local CHANGED_S = 40 * DAY_S -- longer than any count stays that nobody looks at
local FEW = 500 -- that are looked at in one step
local NEVER = 9007199254740991
local PARTS = {
  requests = { 1, 0, 0 },
  concurrency = { 1, 0, 0 },
  prompt_tokens = { 0, 1, 0 },
  output_tokens = { 0, 0, 1 },
  total_tokens = { 0, 1, 1 },
}
local PLACE = { hour = 0, day = 4, month = 8 }
local FIELDS = { 'first', 'last', 'used', 'reserved', 'next', 'ends' }

local call = redis.call
local base = string.sub(KEYS[1], 1, -6)
local operation, epoch, instance = ARGV[1], ARGV[2], ARGV[4]
local root = base .. epoch
local time = call('TIME')
local here = tonumber(time[1]) + tonumber(time[2]) / 1000000
local now = tonumber(ARGV[3]) or here
local words, argument = cjson.decode(ARGV[6]), 0

local function take()
  argument = argument + 1
  return words[argument]
end

local function number()
  return tonumber(take())
end

-- Go on with the words of a list.
local function unfold()
  words, argument = take(), 0
end

local changes = {}

-- A word that is another one after each change of the subject's limits.
local function changed(name)
  local subject = string.sub(name, 1, 32)
  if not changes[subject] then
    local found = call('MGET', root .. ':changed:' .. subject, root .. ':changed:all')
    changes[subject] = (found[1] or '') .. '/' .. (found[2] or '')
  end
  return changes[subject]
end

-- windows: `ends` and `starts` of each period, of the window that is charged now

local state, bounds = nil, nil
local ends, starts = { minute = math.floor(now) + 61, now = NEVER }, {}

local function parse_bounds()
  bounds = {}
  for word in string.gmatch(ARGV[5], '%d+') do
    bounds[#bounds + 1] = tonumber(word)
  end
end

-- Nothing, or what to answer when the boundaries are those of another time. A window never comes again.
local function choose(period)
  if ends[period] then
    return nil
  end
  if not bounds then
    parse_bounds()
  end
  local latest = tonumber(state[period]) or 0
  local first = PLACE[period] + 1
  for index = first + 1, first + 3 do
    local start, stop = bounds[index - 1], bounds[index]
    if (latest > now and stop == latest) or (latest <= now and start <= now and now < stop) then
      starts[period], ends[period] = start, stop
    end
  end
  if not ends[period] then
    return { 'clock', period, math.floor(math.max(now, latest - 1)) }
  end
  if ends[period] > latest then
    call('HSET', KEYS[1], period, ends[period])
  end
end

-- counts

local function save(count)
  local words = {}
  for _, field in ipairs(FIELDS) do
    words[#words + 1] = field
    words[#words + 1] = count[field]
  end
  call('HSET', count.key, unpack(words))
end

local function bucket(count, id)
  local found = call('HMGET', count.key, 'e' .. id, 'u' .. id, 'r' .. id)
  return tonumber(found[1]), tonumber(found[2]) or 0, tonumber(found[3]) or 0
end

local function end_old(count, moment)
  while count.first <= count.last do
    local stop, used, reserved = bucket(count, count.first)
    if stop > moment then
      count.next = stop
      return save(count)
    end
    local id = count.first
    call('HDEL', count.key, 'e' .. id, 'u' .. id, 'r' .. id, 'n' .. id)
    count.used, count.reserved, count.first = count.used - used, count.reserved - reserved, id + 1
  end
  count.next, count.ends = NEVER, 0
  save(count)
end

-- The clock was set back: nothing is younger than what comes now.
local function shorten(count, latest)
  for id = count.first, count.last do
    call('HSET', count.key, 'e' .. id, math.min(bucket(count, id), latest))
  end
  count.next, count.ends = math.min(count.next, latest), latest
  save(count)
end

-- The bucket that ends then, made if there is none, or the next that there is.
local function place(count, stop)
  if stop == count.ends then
    return count.last
  end
  local id = count.first
  if stop > count.ends then
    id = count.last + 1
    count.last, count.ends = id, stop
    count.next = math.min(count.next, stop)
  elseif stop < count.next then
    id = count.first - 1
    count.first, count.next = id, stop
  else
    while bucket(count, id) < stop do
      id = id + 1
    end
    return id
  end
  call('HSET', count.key, 'e' .. id, stop)
  call('EXPIRE', count.key, math.ceil(count.ends - now) + KEEP_S)
  save(count)
  return id
end

local function add(count, id, used, reserved)
  if used ~= 0 then
    call('HINCRBY', count.key, 'u' .. id, used)
    count.used = call('HINCRBY', count.key, 'used', used)
  end
  if reserved ~= 0 then
    call('HINCRBY', count.key, 'r' .. id, reserved)
    count.reserved = call('HINCRBY', count.key, 'reserved', reserved)
  end
end

local function reserve_in(count, id, amount)
  add(count, id, 0, amount)
  if amount == 0 then
    call('HINCRBY', count.key, 'n' .. id, 1)
  end
end

local function awaits(count)
  if count.reserved > 0 then
    return true
  end
  for id = count.first, count.last do
    if tonumber(call('HGET', count.key, 'n' .. id) or 0) > 0 then
      return true
    end
  end
  return false
end

-- All buckets end; their ids never come again.
local function forget(count)
  end_old(count, NEVER)
  call('HDEL', count.key, 'known')
  count.known = false
end

-- Forget slots of processes that have said nothing for long.
local function reap(count)
  local slots, alive = call('HGETALL', count.key), {}
  for index = 1, #slots, 2 do
    local owner = slots[index + 1]
    alive[owner] = alive[owner] or call('EXISTS', base .. 'alive:' .. owner)
    if alive[owner] == 0 then
      call('HDEL', count.key, slots[index])
      count.reserved = count.reserved - 1
    end
  end
end

local function load(count)
  local found = call('HMGET', count.key, 'known', unpack(FIELDS))
  count.known = found[1]
  -- ids begin with the second, so that those of a count that was forgotten never come again
  count.first = tonumber(found[2]) or math.floor(here)
  count.last = tonumber(found[3]) or count.first - 1
  count.used, count.reserved = tonumber(found[4]) or 0, tonumber(found[5]) or 0
  count.next, count.ends = tonumber(found[6]) or NEVER, tonumber(found[7]) or 0
  local moment = math.max(now, starts[count.period] or now) -- the clock may have been set back
  if count.next <= moment then
    end_old(count, moment)
  end
  if count.ends > ends[count.period] then
    shorten(count, ends[count.period])
  end
  if count.known and count.known ~= changed(count.name) and not awaits(count) then
    forget(count)
  end
end

local function look(name, period, meter)
  local count = { key = root .. ':count:' .. name, name = name, period = period, meter = meter }
  if period ~= 'now' then
    load(count)
  else
    count.known, count.used, count.reserved = true, 0, call('HLEN', count.key)
  end
  return count
end

local function open_slot(count, id)
  count.reserved = count.reserved + call('HSETNX', count.key, id, instance)
  call('EXPIRE', count.key, DAY_S)
end

-- Three lists end the answer: what was used of each, what is reserved, when it ends, if time ends it.
local function add_standings(answer, counts)
  local used, reserved, stops = {}, {}, {}
  for index, count in ipairs(counts) do
    used[index], reserved[index] = count.used, count.reserved
    stops[index] = count.period ~= 'now' and (count.ends > 0 and count.ends or ends[count.period])
  end
  answer[#answer + 1], answer[#answer + 2], answer[#answer + 3] = used, reserved, stops
  return answer
end

-- The counters that the next arguments name, or what to answer instead. `more` reads what follows each name.
local function read(more)
  local counts, unknown = {}, { 'unknown' }
  for index = 1, number() do
    local name, period, meter = take(), take(), take()
    local failed = choose(period)
    if failed then
      return nil, failed
    end
    counts[index] = look(name, period, meter)
    if more then
      more(counts[index])
    end
    if not counts[index].known then
      unknown[#unknown + 1], unknown[#unknown + 2] = index - 1, changed(name)
    end
  end
  return counts, #unknown > 1 and unknown or nil
end
