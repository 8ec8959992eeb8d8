-- Takes one raw entry of the inbox out of the taker's list and writes it down as a dead letter: it could not be read.
-- (Readable ones go through enqueue.lua.)
-- ARGV: taker, raw entry, id, record without created, progress
-- Returns 1 done | 0 it is not there any more
if redis.call('LREM', key('taking:' .. ARGV[1]), -1, ARGV[2]) == 0 then return 0 end
local now = clock(redis.call('HGET', key('meta'), 'offset'))
redis.call('HSET', key('jobs'), ARGV[3], micros(now) .. ARGV[4])
redis.call('HSET', key('ended'), ARGV[3], ARGV[5])
redis.call('ZADD', key('dead'), micros(now / 1000), ARGV[3])
redis.call('HINCRBY', key('meta'), 'enqueued', 1)
redis.call('HINCRBY', key('meta'), 'ended', 1)
return 1
