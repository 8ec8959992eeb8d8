-- What enqueueing writes, and nothing that decides about it: the yardstick of `bench`.
-- ARGV: n, then n times id, record without created
local n = tonumber(ARGV[1])
local now = clock()
local records, scores = {}, {}
for i = 1, n do
  local score = micros(now - n + i)
  records[i * 2 - 1], records[i * 2] = ARGV[i * 2], score .. ARGV[i * 2 + 1]
  scores[i * 2 - 1], scores[i * 2] = score, ARGV[i * 2]
end
redis.call('HSET', key('jobs'), unpack(records))
redis.call('ZADD', key('due:0'), unpack(scores))
redis.call('HSET', key('meta'), 'waiting', n, 'enqueued', n, 'prios', '0')
redis.call('PUBLISH', key('hints'), 'work')
return n
