-- Changes what operators change of a queue, and tells whoever listens; a script, so that it also works when Redis has no
-- memory left.
-- ARGV: 'paused', 0 | 1                  stops or resumes deliveries
--       'live', name[, value]            a live setting; without a value it is removed
if ARGV[1] == 'paused' then
  redis.call('HSET', key('meta'), 'paused', ARGV[2])
else
  if ARGV[3] then
    redis.call('HSET', key('live'), ARGV[2], ARGV[3])
  else
    redis.call('HDEL', key('live'), ARGV[2])
  end
  redis.call('HINCRBY', key('meta'), 'live', 1)
end
redis.call('PUBLISH', key('hints'), 'changed')
return 1
