-- Tells the worker that runs a job to cancel it.
-- ARGV: id, worker
-- Returns 1 told | 0 it does not run there any more
local unacked = key('unacked:' .. ARGV[2])
for _, held in ipairs(redis.call('HVALS', unacked)) do
  if string.find(' ' .. held .. ' ', ' ' .. ARGV[1] .. ' ', 1, true) then
    redis.call('SADD', key('cancel:' .. ARGV[2]), ARGV[1])
    redis.call('HSET', unacked, '+', 1)
    redis.call('PUBLISH', key('hints'), 'cancel ' .. ARGV[2] .. ' ' .. ARGV[1])
    return 1
  end
end
return 0
