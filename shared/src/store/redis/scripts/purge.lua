-- Forgets jobs of one state, at most 256; ids that are remembered stay so.
-- ARGV: scheduled | ready | done | dead | cancelled | expired
-- Returns how many.
local state = ARGV[1]
local meta = redis.call('HMGET', key('meta'), 'offset', 'prios')
local now = clock(meta[1])
local ids = {}
if state == 'scheduled' or state == 'ready' then
  local low, high = '-inf', micros(now)
  if state == 'scheduled' then low, high = '(' .. micros(now), '+inf' end
  for priority in priorities(meta[2]) do
    local zset = key('due:' .. priority)
    local batch = redis.call('ZRANGEBYSCORE', zset, low, high, 'LIMIT', 0, 256 - #ids)
    if #batch > 0 then redis.call('ZREM', zset, unpack(batch)) end
    for _, id in ipairs(batch) do ids[#ids + 1] = id end
    if #ids == 256 then break end
  end
  if #ids > 0 then
    redis.call('HDEL', key('progress'), unpack(ids))
    redis.call('HINCRBY', key('meta'), 'waiting', -#ids)
  end
elseif state == 'dead' then
  ids = redis.call('ZRANGE', key('dead'), 0, 255)
  if #ids > 0 then redis.call('ZREM', key('dead'), unpack(ids)) end
else
  ids = redis.call('LPOP', key(state), 256) or {}
  if #ids > 0 then redis.call('HINCRBY', key('meta'), 'cut:' .. state, #ids) end
end
if #ids == 0 then return 0 end
forget(ids)
return #ids
