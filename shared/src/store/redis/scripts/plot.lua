-- Keeps a point of a chart, unless another host has kept one of the same moment; forgets the oldest.
-- KEYS[1] is {NAMESPACE} here.
-- ARGV: step (s), moment (Unix s), point, how many are kept
-- Returns 1 if it was kept, 0 if one was there.
local points, at = key('points:' .. ARGV[1]), tonumber(ARGV[2])
if redis.call('ZCOUNT', points, at, at) > 0 then
  return 0
end
redis.call('ZADD', points, at, ARGV[2] .. ' ' .. ARGV[3])
redis.call('ZREMRANGEBYSCORE', points, '-inf', at - tonumber(ARGV[1]) * tonumber(ARGV[4]))
return 1
