-- Shared by all scripts. KEYS[1] is the queue's base key, NAMESPACE:{QUEUE}; every other key is made from it and so
-- lies in the same cluster slot. Time is read once, in microseconds, with the offset that guards it against jumps.
-- Numbers over 10^14 must be formatted with %.0f before they are joined to a string.
local base = KEYS[1]
local function key(name) return base .. ':' .. name end
local function micros(n) return string.format('%.0f', n) end
local function clock(offset)
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2] + (offset or 0)
end
-- Puts an id back before all others of its priority: earlier than the first, and never later than it was due.
local function front(zset, due)
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= due then return tonumber(first[2]) - 1 end
  return due
end
-- Removes the oldest entries of a list of ended jobs, at most 512 a call.
local function cut(list, max)
  local over = redis.call('LLEN', key(list)) - max
  if over <= 0 then return 0 end
  local old = redis.call('LPOP', key(list), math.min(over, 512))
  redis.call('HDEL', key('ended'), unpack(old))
  redis.call('HDEL', key('jobs'), unpack(old))
  redis.call('HINCRBY', key('meta'), 'cut:' .. list, #old)
  return #old
end
