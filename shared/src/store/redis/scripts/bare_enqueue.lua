-- What enqueueing writes, and nothing that decides about it: the yardstick of `bench`.
-- ARGV: n, then n times id, record
local n = tonumber(ARGV[1])
local t = redis.call('TIME')
local now = t[1] * 1000000 + t[2]
local records, scores = {}, {}
for i = 1, n do
  records[i * 2 - 1], records[i * 2] = ARGV[i * 2], ARGV[i * 2 + 1]
  scores[i * 2 - 1], scores[i * 2] = now - n + i, ARGV[i * 2]
end
redis.call('HSET', key('jobs'), unpack(records))
redis.call('ZADD', key('due:0'), unpack(scores))
redis.call('ZADD', key('prios'), 0, 0)
redis.call('HINCRBY', key('meta'), 'waiting', n)
redis.call('HINCRBY', key('meta'), 'enqueued', n)
redis.call('PUBLISH', key('hints'), 'work')
return n
