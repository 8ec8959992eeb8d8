-- What a delivery and an acknowledgement write, and nothing that decides about it: the yardstick of `bench`.
-- ARGV: worker, max, kept, token and n of the last batch, then its n ids and n progresses
-- Returns token, the ids joined by blanks, their records
local unacked, n = key('unacked:' .. ARGV[1]), tonumber(ARGV[5])
local now = micros(clock())
if n > 0 then
  local ids, ended = {}, {}
  for i = 1, n do
    ids[i] = ARGV[5 + i]
    ended[i * 2 - 1], ended[i * 2] = ids[i], ARGV[5 + n + i]
  end
  redis.call('HDEL', unacked, ARGV[4])
  redis.call('HSET', key('ended'), unpack(ended))
  cut('done', redis.call('RPUSH', key('done'), unpack(ids)), tonumber(ARGV[3]))
end
local ids = redis.call('ZRANGEBYSCORE', key('due:0'), '-inf', now, 'LIMIT', 0, ARGV[2])
if #ids == 0 then return {} end
redis.call('ZREMRANGEBYRANK', key('due:0'), 0, #ids - 1)
local records = redis.call('HMGET', key('jobs'), unpack(ids))
local joined = table.concat(ids, ' ')
redis.call('HSET', unacked, now, joined)
redis.call('ZADD', key('leases'), now, ARGV[1])
redis.call('HSET', key('meta'), 'waiting', -n, 'running', n, 'ended', n, 'token', now, 'prios', '0', 'tried', 0)
return { now, joined, unpack(records) }
