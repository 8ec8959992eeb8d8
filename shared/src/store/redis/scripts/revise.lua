-- Changes a job that waits or has ended, if it still is as its reviser saw it.
-- ARGV: id, where (waiting|ended), progress as seen ('' if none), verb, then
--   finish: progress, digest ('' if not remembered), keep_done_max, list    waiting -> cancelled | expired, the list
--   due:    'now'|'in'|'at'|'keep', micros, progress, record without created ('' to keep it)
--                                                                     waiting -> another due time, other content
--   revive: progress, priority                                        ended   -> waiting, due now
--   delete:                                                           waiting or ended -> forgotten
-- Progress is given as 'TOKEN {json}'; that of a waiting job is kept with its due time, 'TOKEN DUE {json}'.
-- Returns 1 done | 0 it has changed meanwhile
local id, where, seen, verb = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local meta = redis.call('HMGET', key('meta'), 'offset', 'prios')
local now = clock(meta[1])
local zset, priority
if where == 'waiting' then
  for p in priorities(meta[2]) do
    if redis.call('ZSCORE', key('due:' .. p), id) then
      zset, priority = key('due:' .. p), p
      break
    end
  end
  if not zset or (redis.call('HGET', key('progress'), id) or '') ~= seen then return 0 end
elseif redis.call('HGET', key('ended'), id) ~= seen then
  return 0
end

local function due_beside(progress, due) return (string.gsub(progress, ' ', ' ' .. micros(due) .. ' ', 1)) end

local function leave_ended()
  for _, list in ipairs({ 'cancelled', 'expired', 'done' }) do
    if redis.call('LREM', key(list), -1, id) == 1 then return end
  end
  redis.call('ZREM', key('dead'), id)
end

if verb == 'finish' then
  redis.call('ZREM', zset, id)
  redis.call('HDEL', key('progress'), id)
  redis.call('HSET', key('ended'), id, ARGV[5])
  redis.call('RPUSH', key(ARGV[8]), id)
  redis.call('HINCRBY', key('meta'), 'waiting', -1)
  redis.call('HINCRBY', key('meta'), 'ended', 1)
  if ARGV[6] ~= '' then
    redis.call('HSET', key('digests'), id, ARGV[6])
    redis.call('ZADD', key('remembered'), micros(now / 1000), id)
  end
  cut(ARGV[8], redis.call('LLEN', key(ARGV[8])), tonumber(ARGV[7]))
elseif verb == 'due' then
  local due = now
  if ARGV[5] == 'in' then
    due = now + tonumber(ARGV[6])
  elseif ARGV[5] == 'at' then
    due = tonumber(ARGV[6])
  elseif ARGV[5] == 'keep' then
    due = tonumber(redis.call('ZSCORE', zset, id))
  end
  if ARGV[8] ~= '' then
    local created = string.sub(redis.call('HGET', key('jobs'), id), 1, 16)
    redis.call('HSET', key('jobs'), id, created .. ARGV[8])
  end
  redis.call('ZADD', zset, micros(due), id)
  redis.call('HSET', key('progress'), id, due_beside(ARGV[7], due))
  redis.call('HSET', key('meta'), 'tried', 1)
  redis.call('PUBLISH', key('hints'), due <= now and 'work 1 -' or 'work 0 ' .. micros(due))
elseif verb == 'revive' then
  leave_ended()
  redis.call('HDEL', key('ended'), id)
  redis.call('HDEL', key('digests'), id)
  redis.call('ZREM', key('remembered'), id)
  redis.call('HSET', key('progress'), id, due_beside(ARGV[5], now))
  redis.call('ZADD', key('due:' .. ARGV[6]), micros(now), id)
  redis.call('HSET', key('meta'), 'prios', with_priority(meta[2], ARGV[6]), 'tried', 1)
  redis.call('HINCRBY', key('meta'), 'waiting', 1)
  redis.call('PUBLISH', key('hints'), 'work 1 -')
else
  if zset then
    redis.call('ZREM', zset, id)
    redis.call('HDEL', key('progress'), id)
    redis.call('HINCRBY', key('meta'), 'waiting', -1)
  else
    leave_ended()
    redis.call('HDEL', key('ended'), id)
  end
  redis.call('HDEL', key('jobs'), id)
  redis.call('HDEL', key('digests'), id)
  redis.call('ZREM', key('remembered'), id)
end
return 1
