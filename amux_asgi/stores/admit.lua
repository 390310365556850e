-- Admit requests, one after the other: each by all of its limits, or by none of them.
--
-- KEYS: the counters of all requests. ARGV: the life of a lease in µs; then for each request its lease and how many
-- counters it has, and for each of those the limit, the request's weight, the window in µs (0: it counts leases), how many
-- leases are given back first, and which. Answers for each counter how long it refuses, how much is left, and when more is
-- there; times in µs. The time is the server's, one for all who ask.
--
-- A window is a sorted set: the score is when it was admitted, the member "TOTAL:WEIGHT", where TOTAL is all that was
-- ever admitted with this one. So what is in the window is the difference of two totals, and nothing is added up.
-- Leases are a sorted set too: the score is when they fall unless their owner renews them.

local SECOND = 1000000
local clock = redis.call('TIME')
local now = tonumber(clock[1]) * SECOND + tonumber(clock[2])
local life = tonumber(ARGV[1])

local function entry(key, index)
  local found = redis.call('ZRANGE', key, index, index, 'WITHSCORES')
  if not found[1] then
    return nil
  end
  local total, weight = string.match(found[1], '^(%d+):(%d+)$')
  return { total = tonumber(total), weight = tonumber(weight), at = tonumber(found[2]) }
end

-- Whatever lies there that is none of ours, or of a clock far ahead of this server's, is no reason to refuse anybody.
local function ends_of(key, window)
  local gone = redis.pcall('ZREMRANGEBYSCORE', key, '-inf', string.format('%.0f', now - window))
  if type(gone) == 'table' then
    redis.call('DEL', key)
    return nil, nil
  end
  if window == 0 then
    return nil, nil
  end
  local first, last = entry(key, 0), entry(key, -1)
  if first and not (first.total and last.total and last.at <= now + SECOND) then
    redis.call('DEL', key)
    return nil, nil
  end
  return first, last
end

-- Find the first entry by whose end enough is free again; they lie in the order of their totals.
local function fits_at(counter, used)
  local needed = counter.first.total - counter.first.weight + used + counter.weight - counter.limit
  local low, high = 0, redis.call('ZCARD', counter.key) - 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if (entry(counter.key, middle).total or needed) >= needed then
      high = middle
    else
      low = middle + 1
    end
  end
  return entry(counter.key, low).at + counter.window
end

-- Say how a counter stands: how long it refuses, how much is left, when more is there.
local function standing_of(counter)
  local first = counter.first
  local wait, reset, used = 0, 0, 0
  if counter.window == 0 then
    used = redis.call('ZCARD', counter.key)
    if used + counter.weight > counter.limit then
      wait = SECOND -- a place can come free at any moment
    end
  else
    if first then
      used = counter.last.total - first.total + first.weight
      reset = math.max(first.at + counter.window - now, 0)
    elseif counter.weight > 0 then
      reset = counter.window
    end
    if used + counter.weight > counter.limit then
      wait = math.max(fits_at(counter, used) - now, 1)
    end
  end
  local left = counter.limit - used - (wait == 0 and counter.weight or 0)
  return wait, math.max(left, 0), reset
end

local function take(counter, lease)
  if counter.weight == 0 then
    return -- counted elsewhere
  end
  if counter.window == 0 then
    redis.call('ZADD', counter.key, string.format('%.0f', now + life), lease)
    redis.call('PEXPIRE', counter.key, math.ceil(life / 1000))
    return
  end
  local total = (counter.last and counter.last.total or 0) + counter.weight
  redis.call('ZADD', counter.key, string.format('%.0f', now), string.format('%016.0f:%.0f', total, counter.weight))
  redis.call('PEXPIRE', counter.key, math.ceil(counter.window / 1000))
end

local at, next_key = 2, 1

-- Read one counter of a request, without what has ended.
local function counter_of()
  local key = KEYS[next_key]
  local limit, weight, window = tonumber(ARGV[at]), tonumber(ARGV[at + 1]), tonumber(ARGV[at + 2])
  local counter = { key = key, limit = limit, weight = weight, window = window }
  counter.first, counter.last = ends_of(key, window)
  local gone = tonumber(ARGV[at + 3])
  for j = at + 4, at + 3 + gone do
    redis.call('ZREM', key, ARGV[j])
  end
  at = at + 4 + gone
  next_key = next_key + 1
  if counter.last and counter.last.at > now then
    now = counter.last.at -- it never runs backwards
  end
  return counter
end

local answer = {}
while at <= #ARGV do
  local lease, number = ARGV[at], tonumber(ARGV[at + 1])
  at = at + 2
  local counters = {}
  for i = 1, number do
    counters[i] = counter_of()
  end
  local admitted = true
  for _, counter in ipairs(counters) do
    local wait, left, reset = standing_of(counter)
    admitted = admitted and wait == 0
    answer[#answer + 1] = wait
    answer[#answer + 1] = left
    answer[#answer + 1] = reset
  end
  if admitted then
    for _, counter in ipairs(counters) do
      take(counter, lease)
    end
  end
end
return answer
