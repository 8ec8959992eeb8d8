-- Tells the worker that runs a job to cancel it.
-- ARGV: id, worker
-- Returns 1 told | 0 it does not run there any more
if redis.call('HEXISTS', key('unacked:' .. ARGV[2]), ARGV[1]) == 0 then return 0 end
redis.call('SADD', key('cancel:' .. ARGV[2]), ARGV[1])
redis.call('PUBLISH', key('hints'), 'cancel ' .. ARGV[2] .. ' ' .. ARGV[1])
return 1
