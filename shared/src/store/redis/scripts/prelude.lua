-- Shared by all scripts. KEYS[1] is the queue's base key, NAMESPACE:{QUEUE}; every other key is made from it and so
-- lies in the same cluster slot. Time is read once, in microseconds, with the offset that guards it against jumps.
-- Numbers over 10^14 lose digits when they are joined to a string: micros() writes them whole.
local base = KEYS[1]
local function key(name) return base .. ':' .. name end
local function micros(n) return string.format('%d', n) end
local function clock(offset)
  local t = redis.call('TIME')
  return t[1] * 1000000 + t[2] + (offset or 0)
end
-- The priorities in use stand in the queue's meta as one text, highest first: '5 0 -3'.
local function priorities(text) return string.gmatch(text or '', '%S+') end
local function with_priority(text, priority)
  if text == priority then return text end
  local all, placed = {}, false
  for other in priorities(text) do
    if other == priority then return text end
    if not placed and tonumber(other) < tonumber(priority) then
      all[#all + 1], placed = priority, true
    end
    all[#all + 1] = other
  end
  if not placed then all[#all + 1] = priority end
  return table.concat(all, ' ')
end
-- Puts an id back before all others of its priority: earlier than the first, and never later than it was due.
local function front(zset, due)
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= due then return tonumber(first[2]) - 1 end
  return due
end
-- Forgets jobs that have ended.
local function forget(ids)
  redis.call('HDEL', key('ended'), unpack(ids))
  redis.call('HDEL', key('jobs'), unpack(ids))
end
-- Removes the oldest of so many entries of a list of ended jobs, at most 512 a call.
local function cut(list, length, max)
  if length <= max then return 0 end
  local old = redis.call('LPOP', key(list), math.min(length - max, 512))
  forget(old)
  redis.call('HINCRBY', key('meta'), 'cut:' .. list, #old)
  return #old
end
-- Removes the oldest of a list of ended jobs that had ended by a moment (ms), at most so many (up to 512).
local function cut_until(list, moment, most)
  local oldest = redis.call('LRANGE', key(list), 0, most - 1)
  if #oldest == 0 then return 0 end
  local old = 0
  -- The list is in the order of ending; the time stands in the progress, in one of its two forms.
  local kept = redis.call('HMGET', key('ended'), unpack(oldest))
  for i = 1, #oldest do
    local ended = kept[i] and (string.match(kept[i], '^%d+ done (%d+) ') or string.match(kept[i], '"ended":(%d+)'))
    if ended and tonumber(ended) > moment then break end
    old = i
  end
  if old == 0 then return 0 end
  forget(redis.call('LPOP', key(list), old))
  redis.call('HINCRBY', key('meta'), 'cut:' .. list, old)
  return old
end
