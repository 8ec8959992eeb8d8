-- Gives a worker its next jobs, under a lease.
-- ARGV: worker, max, lease (micros), latest (micros or '')
-- Returns: now, token, next due or '', paused (0|1), skewed (0|1), live version, then for each job
--   id, due, record, progress ('' if none)
local meta = redis.call('HMGET', key('meta'), 'offset', 'paused', 'token', 'live')
local now = clock(meta[1])
local latest = tonumber(ARGV[4])
local reply = { micros(now), '', '', 0, 0, meta[4] or '0' }
-- Whoever pulls lives: what it holds already is its own for one more lease, even if it is given no more.
local function prolong() redis.call('ZADD', key('leases'), 'XX', now + tonumber(ARGV[3]), ARGV[1]) end
if latest and now > latest then
  prolong()
  reply[5] = 1
  return reply
end
local priorities = redis.call('ZREVRANGE', key('prios'), 0, -1)
local paused = meta[2] == '1'
local ids, count, left = {}, 0, tonumber(ARGV[2])
if paused then
  reply[4] = 1
  left = 0
end
local next_due
for _, priority in ipairs(priorities) do
  local zset = key('due:' .. priority)
  if left > 0 then
    local batch = redis.call('ZRANGEBYSCORE', zset, '-inf', micros(now), 'WITHSCORES', 'LIMIT', 0, left)
    if #batch > 0 then
      redis.call('ZREMRANGEBYRANK', zset, 0, #batch / 2 - 1)
      for i = 1, #batch, 2 do
        count = count + 1
        ids[count] = batch[i]
        local at = 6 + (count - 1) * 4
        reply[at + 1], reply[at + 2], reply[at + 3], reply[at + 4] = batch[i], batch[i + 1], '', ''
      end
      left = left - #batch / 2
    end
  end
  local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
  if not first[1] then
    redis.call('ZREM', key('prios'), priority)
  elseif not next_due or tonumber(first[2]) < next_due then
    next_due = tonumber(first[2])
  end
end
if next_due then reply[3] = micros(next_due) end
if count == 0 then
  prolong()
  return reply
end

local token = now
if meta[3] and tonumber(meta[3]) >= token then token = tonumber(meta[3]) + 1 end
local token_text = micros(token)
local prefix = token_text .. ' '
reply[2] = token_text
redis.call('HSET', key('meta'), 'token', token_text)
local records = redis.call('HMGET', key('jobs'), unpack(ids))
local progress = redis.call('EXISTS', key('progress')) == 1 and redis.call('HMGET', key('progress'), unpack(ids))
local held = {}
for i = 1, count do
  local at = 6 + (i - 1) * 4
  reply[at + 3] = records[i] or ''
  if progress and progress[i] then
    reply[at + 4] = progress[i]
    -- One that was put back to the front keeps the due time that it had before, in ms.
    local before = string.match(progress[i], '"due":(-?%d+)')
    if before then reply[at + 2] = before .. '000' end
  end
  held[i * 2 - 1] = ids[i]
  held[i * 2] = prefix .. reply[at + 2]
end
redis.call('HSET', key('unacked:' .. ARGV[1]), unpack(held))
redis.call('ZADD', key('leases'), now + tonumber(ARGV[3]), ARGV[1])
redis.call('HINCRBY', key('meta'), 'waiting', -count)
redis.call('HINCRBY', key('meta'), 'running', count)
return reply
