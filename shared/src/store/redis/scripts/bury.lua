-- Writes down as a dead letter what could not become a job. (What could goes through enqueue.lua.)
-- ARGV: taker, raw entry, id, record without created, progress
-- Where it is an entry of the inbox, it is taken out of the taker's list in the same step; else taker is ''.
-- Returns 1 done | 0 the entry is not there any more, or the id is in use
if ARGV[1] ~= '' and redis.call('LREM', key('taking:' .. ARGV[1]), -1, ARGV[2]) == 0 then return 0 end
local now = clock(redis.call('HGET', key('meta'), 'offset'))
if redis.call('HSETNX', key('jobs'), ARGV[3], micros(now) .. ARGV[4]) == 0 then return 0 end
redis.call('HSET', key('ended'), ARGV[3], ARGV[5])
redis.call('ZADD', key('dead'), micros(now / 1000), ARGV[3])
redis.call('HINCRBY', key('meta'), 'enqueued', 1)
redis.call('HINCRBY', key('meta'), 'ended', 1)
return 1
