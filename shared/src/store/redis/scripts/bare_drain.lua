-- What a delivery and an acknowledgement write, and nothing that decides about it: the yardstick of `bench`.
-- ARGV: worker, max, kept, n, then n times id, progress (of the last batch)
-- Returns id, record, id, record...
local unacked, n = key('unacked:' .. ARGV[1]), tonumber(ARGV[4])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
if n > 0 then
  local ids, ended = {}, {}
  for i = 1, n do
    ids[i] = ARGV[3 + i * 2]
    ended[i * 2 - 1], ended[i * 2] = ids[i], ARGV[4 + i * 2]
  end
  redis.call('HDEL', unacked, unpack(ids))
  redis.call('HSET', key('ended'), unpack(ended))
  redis.call('RPUSH', key('done'), unpack(ids))
  redis.call('HINCRBY', key('meta'), 'ended', n)
  cut('done', tonumber(ARGV[3]))
end
local batch = redis.call('ZRANGEBYSCORE', key('due:0'), '-inf', micros(now), 'WITHSCORES', 'LIMIT', 0, ARGV[2])
if #batch == 0 then return {} end
local count = #batch / 2
redis.call('ZREMRANGEBYRANK', key('due:0'), 0, count - 1)
local ids, held = {}, {}
local token = micros(now) .. ' '
for i = 1, count do
  ids[i] = batch[i * 2 - 1]
  held[i * 2 - 1], held[i * 2] = ids[i], token .. batch[i * 2]
end
local records = redis.call('HMGET', key('jobs'), unpack(ids))
redis.call('HSET', unacked, unpack(held))
redis.call('ZADD', key('leases'), now + 15000000, ARGV[1])
redis.call('HINCRBY', key('meta'), 'waiting', -count)
for i = 1, count do batch[i * 2] = records[i] end
return batch
