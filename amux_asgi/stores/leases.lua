-- Renew leases, or give them back.
--
-- KEYS: the counters. ARGV: the life of a lease from now on in µs, or 0 to give them back; then for each counter how many
-- leases, and which.

local clock = redis.call('TIME')
local life = tonumber(ARGV[1])
local falls = string.format('%.0f', tonumber(clock[1]) * 1000000 + tonumber(clock[2]) + life)
local at = 2
for _, key in ipairs(KEYS) do
  local last = at + tonumber(ARGV[at])
  local kind = redis.call('TYPE', key).ok
  if kind ~= 'zset' and kind ~= 'none' then
    redis.call('DEL', key) -- none of ours
  end
  for i = at + 1, last do
    if life == 0 then
      redis.call('ZREM', key, ARGV[i])
    else
      redis.call('ZADD', key, falls, ARGV[i])
    end
  end
  if life > 0 then
    redis.call('PEXPIRE', key, math.ceil(life / 1000))
  end
  at = last + 1
end
return #KEYS
