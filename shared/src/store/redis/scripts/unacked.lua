-- What a worker holds under lease, at most 256.
-- ARGV: worker
-- Returns for each job: id, "token due [started deadline]", record, progress ('' if none)
local all = redis.call('HGETALL', key('unacked:' .. ARGV[1]))
local reply = {}
for i = 1, math.min(#all, 512), 2 do
  reply[#reply + 1] = all[i]
  reply[#reply + 1] = all[i + 1]
  reply[#reply + 1] = redis.call('HGET', key('jobs'), all[i]) or ''
  reply[#reply + 1] = redis.call('HGET', key('progress'), all[i]) or ''
end
return reply
