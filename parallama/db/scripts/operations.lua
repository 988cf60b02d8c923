-- What is done to counters beside requests, what processes say of themselves, and which operation was asked for.

local function know(count)
  call('HSET', count.key, 'known', changed(count.name))
  call('EXPIRE', count.key, math.ceil(math.max(count.ends, ends[count.period]) - now) + KEEP_S)
  call('SADD', root .. ':counts', count.name)
  call('EXPIRE', root .. ':counts', CHANGED_S)
end

-- Where what was used then counts now, if it does.
local function end_of(period, second)
  if period == 'minute' then
    local stop = math.floor(second) + 61
    return stop > now and math.min(stop, ends.minute) or nil
  end
  return starts[period] and second >= starts[period] and ends[period] or nil
end

-- counters, as of which change ('': this one) they are known, with pairs of a second and what was used in it
local function seed()
  local _, failed = read(function(count)
    local asked = take()
    local wanted = not count.known and count.period ~= 'now' and (asked == '' or asked == changed(count.name))
    for _ = 1, number() do
      local stop, amount = end_of(count.period, number()), number()
      if wanted and stop then
        add(count, place(count, stop), amount, 0)
      end
    end
    if wanted then
      know(count)
    end
    count.known = true
  end)
  return failed or { 'ok' }
end

local function standings()
  local counts, failed = read(function(count)
    count.asked, count.known = count.known, true
    if count.period == 'now' then
      reap(count)
    end
  end)
  if failed then
    return failed
  end
  local known = {}
  for index, count in ipairs(counts) do
    known[index] = count.asked and 1 or 0
  end
  return add_standings({ 'ok', known }, counts)
end

-- counters with what is to be added to what was used, and how much of that is left at least
local function correct()
  local _, failed = read(function(count)
    local amount, least = number(), number()
    amount = math.max(amount, math.min(0, least - count.used))
    if count.known and count.period ~= 'now' then
      local id = place(count, ends[count.period])
      local _, used = bucket(count, id)
      add(count, id, math.max(amount, -used), 0)
    end
    count.known = true
  end)
  return failed or { 'ok' }
end

-- subjects, or `all`, whose counters become unknown when nothing is reserved in them
local function change()
  local word = time[1] .. '.' .. time[2]
  while argument < #words do
    call('SET', root .. ':changed:' .. take(), word, 'EX', CHANGED_S)
  end
  return { 'ok' }
end

-- Names of counters that may be known, from a cursor on, after the next cursor.
local function names()
  local found = call('SSCAN', root .. ':counts', take(), 'COUNT', FEW)
  local answer = { 'ok', found[1] }
  for _, name in ipairs(found[2]) do
    if call('EXISTS', root .. ':count:' .. name) == 1 then
      answer[#answer + 1] = name
    else
      call('SREM', root .. ':counts', name)
    end
  end
  return answer
end

-- processes

local rows = base .. 'rows'

-- Release all that a process has reserved which is no more, from a cursor on; nobody waits for its rows. Tells the next
-- one, and of how many requests.
local function abandon()
  local gone, cursor, requests = take(), take(), 0
  if call('EXISTS', base .. 'alive:' .. gone) == 1 then
    return { 'alive' }
  end
  call('ZREM', rows, gone)
  local begin = root .. ':held:'
  local found = call('SCAN', cursor, 'MATCH', begin .. '*', 'COUNT', FEW)
  for _, key in ipairs(found[2]) do
    if cmsgpack.unpack(call('GET', key))[3] == gone then
      release(string.sub(key, #begin + 1))
      requests = requests + 1
    end
  end
  return { 'ok', found[1], requests }
end

-- The processes that are no more and have something reserved, from a cursor on: the next one, and each once a request.
local function left()
  local found = call('SCAN', take(), 'MATCH', root .. ':held:*', 'COUNT', FEW)
  local answer = { 'ok', found[1] }
  for _, key in ipairs(found[2]) do
    local holder = cmsgpack.unpack(call('GET', key))[3] or ''
    if call('EXISTS', base .. 'alive:' .. holder) == 0 then
      answer[#answer + 1] = holder
    end
  end
  return answer
end

-- Until when what the process has settled here is in the database; '': until now. Without it: it never has rows.
local function alive()
  local word = take()
  local lapsed = 1 - call('EXISTS', base .. 'alive:' .. instance)
  call('SET', base .. 'alive:' .. instance, '', 'EX', ALIVE_S)
  if word then
    call('ZADD', rows, math.max(tonumber(word) or here, here - DAY_S / 2), instance) -- never given up while alive
    call('EXPIRE', rows, DAY_S)
  end
  call('EXPIRE', KEYS[1], EPOCH_S)
  return { 'ok', lapsed, string.format('%.17g', here) }
end

-- The processes that are no more and whose rows are missed.
local function missed()
  local answer = { 'ok' }
  for _, name in ipairs(call('ZRANGE', rows, 0, -1)) do
    if call('EXISTS', base .. 'alive:' .. name) == 0 then
      answer[#answer + 1] = name
    end
  end
  return answer
end

-- A process whose rows are all in the database.
local function complete()
  call('ZREM', rows, take())
  return { 'ok' }
end

-- Whether the other processes have brought to the database what they settled before the moment ('': now). Tells the
-- moment, and 1: they have, 0: not yet, -1: not while a journal waits whose process is no more, for a day at most.
local function shipped()
  local moment, state = number() or here, 1
  local word = string.format('%.17g', moment)
  call('ZREMRANGEBYSCORE', rows, '-inf', here - DAY_S)
  for _, name in ipairs(call('ZRANGEBYSCORE', rows, '-inf', '(' .. word)) do
    if name ~= instance then
      state = math.min(state, call('EXISTS', base .. 'alive:' .. name) - 1)
    end
  end
  return { 'ok', word, state }
end

-- The epoch of this server: the proposed id, if it has lost or may have lost what it knew. Then nothing is reserved for
-- so many seconds, in which the other processes say what they have. Tells the milliseconds of that which are left.
local function open()
  local proposed, joining_s = take(), number()
  local server = string.match(call('INFO', 'server'), 'run_id:(%w+)') or ''
  local known = call('HMGET', KEYS[1], 'id', 'server', 'opens')
  if not known[1] or known[2] ~= server then
    call('DEL', KEYS[1])
    known[1], known[3] = proposed, string.format('%.17g', here + joining_s)
    call('HSET', KEYS[1], 'id', proposed, 'server', server, 'opens', known[3])
  end
  alive()
  return { 'ok', known[1], math.ceil(math.max(0, tonumber(known[3]) - here) * 1000) }
end

if operation == 'open' then
  return open()
end
local found = call('HMGET', KEYS[1], 'id', 'opens', 'hour', 'day', 'month')
if found[1] ~= epoch then
  return { 'epoch' }
end
state = { opens = found[2], hour = found[3], day = found[4], month = found[5] }
local operations = {
  reserve = reserve,
  finish = finish,
  register = register,
  seed = seed,
  standings = standings,
  correct = correct,
  change = change,
  names = names,
  abandon = abandon,
  left = left,
  alive = alive,
  complete = complete,
  missed = missed,
  shipped = shipped,
}
return operations[operation]()
