-- What a request may cost, and its life: reserve, finish, register.

local function cost(meter, prompt, output, weight)
  local parts = PARTS[meter]
  return parts[1] + math.ceil((parts[2] * prompt + parts[3] * output) * weight)
end

-- For how much output there is room; less than `least`: not even for that.
local function most_output(count, output, least, weight)
  if count.amount == 0 then
    return -1
  end
  local room = math.max(0, count.amount - count.used - count.reserved)
  if cost(count.meter, count.prompt, output, weight) <= room then
    return output
  end
  local fits, fails = least - 1, output
  while fails - fits > 1 do
    local middle = math.floor((fits + fails) / 2)
    if cost(count.meter, count.prompt, middle, weight) <= room then
      fits = middle
    else
      fails = middle
    end
  end
  return fits
end

local function wait(count, amount)
  if count.period ~= 'now' then
    for id = count.first, count.last do
      local stop, used, reserved = bucket(count, id)
      amount = amount - used - reserved
      if amount <= 0 then
        return stop - now
      end
    end
  end
  return math.huge
end

-- Whether what was used is in the way, and for how many seconds something is.
local function obstacle(count, least, weight)
  if count.amount == 0 then
    return 1, math.huge
  end
  local need = cost(count.meter, count.prompt, least, weight)
  local lacking = count.used + count.reserved + need - count.amount
  if need == 0 or lacking <= 0 then
    return 0, 0
  end
  return count.used + need > count.amount and 1 or 0, wait(count, lacking)
end

local function refuse(counts, least, weight)
  local worst, worst_used, worst_wait = 1, -1, -1
  for index, count in ipairs(counts) do
    local used, wait_s = obstacle(count, least, weight)
    if used > worst_used or (used == worst_used and wait_s > worst_wait) then
      worst, worst_used, worst_wait = index, used, wait_s
    end
  end
  local wait_s = worst_wait < math.huge and string.format('%.17g', worst_wait) or ''
  return add_standings({ 'refusal', worst - 1, wait_s, 1 - worst_used }, counts)
end

-- requests

local function hold(id, weight, charges, latest)
  local keep_s = math.max(DAY_S, math.ceil(latest - now) + KEEP_S)
  call('SET', root .. ':held:' .. id, cmsgpack.pack({ weight, charges, instance }), 'EX', keep_s)
end

local function grant(id, counts, output, weight)
  local charges, amounts, latest = {}, {}, 0
  for index, count in ipairs(counts) do
    local amount, id_of_bucket = cost(count.meter, count.prompt, output, weight), 0
    if count.period == 'now' then
      open_slot(count, id)
    else
      id_of_bucket = place(count, ends[count.period])
      reserve_in(count, id_of_bucket, amount)
      latest = math.max(latest, count.ends)
    end
    charges[index] = { count.name, count.period, count.meter, id_of_bucket, amount, count.strict }
    amounts[index] = amount
  end
  hold(id, weight, charges, latest)
  local answer = add_standings({ 'grant', output, string.format('%.17g', now) }, counts)
  answer[#answer + 1] = amounts
  return answer
end

-- id, output, least output, weight, most that the prompt may have and what it probably has, and a list: limits with
-- amount and whether they are strict
local function reserve()
  if tonumber(state.opens) > here then
    return { 'wait' }
  end
  local id, output, least, weight, prompt, estimate = take(), number(), number(), number(), number(), number()
  local room = output
  unfold()
  local counts, failed = read(function(count)
    count.amount, count.strict = number(), number()
    count.prompt = count.strict == 1 and prompt or estimate
    if count.period == 'now' and count.reserved >= count.amount then
      reap(count)
    end
    room = math.min(room, most_output(count, output, least, weight))
  end)
  if failed then
    return failed
  end
  if call('EXISTS', root .. ':done:' .. id, root .. ':held:' .. id) > 0 then
    return add_standings({ 'refusal', 0, '', 0 }, counts)
  end
  if room < least then
    return refuse(counts, least, weight)
  end
  return grant(id, counts, room, weight)
end

-- In one reading and one writing: most of a script's time goes into its calls.
local function settle(key, id, amount, used)
  local found = call('HMGET', key, 'first', 'last', 'used', 'reserved', 'u' .. id, 'r' .. id)
  local first, last = tonumber(found[1]), tonumber(found[2])
  if not first or id < first or id > last then
    return
  end
  local all_used, all_reserved = (found[3] or 0) + used, (found[4] or 0) - amount
  local its_used, its_reserved = (found[5] or 0) + used, (found[6] or 0) - amount
  call('HSET', key, 'used', all_used, 'reserved', all_reserved, 'u' .. id, its_used, 'r' .. id, its_reserved)
  if amount == 0 then
    call('HINCRBY', key, 'n' .. id, -1)
  end
end

-- Count what a request has cost, nothing without a prompt, and release the rest. Tells its overrun.
local function release(id, prompt, output)
  call('SET', root .. ':done:' .. id, '', 'EX', DONE_S)
  local packed = call('GET', root .. ':held:' .. id)
  if not packed then
    return 0
  end
  call('DEL', root .. ':held:' .. id)
  local held, overrun = cmsgpack.unpack(packed), 0
  for _, charge in ipairs(held[2]) do
    local name, period, meter, id_of_bucket, amount, strict = unpack(charge)
    local key = root .. ':count:' .. name
    local used = prompt and cost(meter, prompt, output, held[1]) or 0
    if period == 'now' then
      call('HDEL', key, id)
    else
      settle(key, id_of_bucket, amount, used)
    end
    overrun = math.max(overrun, strict == 1 and used - amount or 0)
  end
  return overrun
end

-- id and, unless it is cancelled, the tokens of its prompt and of its output
local function finish()
  return { 'ok', release(take(), number(), number()) }
end

-- Requests that have a grant which this server has lost: id, weight, limits with amount, strict and end.
local function register()
  for period in pairs(PLACE) do -- before anything is changed
    local failed = choose(period)
    if failed then
      return failed
    end
  end
  while argument < #words do
    local id, weight = take(), number()
    local over = call('EXISTS', root .. ':done:' .. id) == 1
    local fresh = not over and call('EXISTS', root .. ':held:' .. id) == 0
    local charges, latest = {}, 0
    read(function(count)
      local amount, strict, stop, id_of_bucket = number(), number(), number(), 0
      count.known = true
      if count.period == 'now' then
        if not over then
          open_slot(count, id)
        end
      elseif fresh and stop > now then
        id_of_bucket = place(count, math.min(stop, ends[count.period]))
        reserve_in(count, id_of_bucket, amount)
        latest = math.max(latest, stop)
      end
      charges[#charges + 1] = { count.name, count.period, count.meter, id_of_bucket, amount, strict }
    end)
    if fresh then
      hold(id, weight, charges, latest)
    end
  end
  return { 'ok' }
end
