-- What a worker holds under lease, at most 256.
-- ARGV: worker
-- Returns for each job: id, "token [started deadline]", record, progress ('' if none)
local begun = key('begun:' .. ARGV[1])
local reply = {}
local function hold(token, id)
  local row = redis.call('HGET', begun, id)
  reply[#reply + 1] = id
  reply[#reply + 1] = row and string.sub(row, 1, #token + 1) == token .. ' ' and row or token
  reply[#reply + 1] = redis.call('HGET', key('jobs'), id) or ''
  reply[#reply + 1] = redis.call('HGET', key('progress'), id) or ''
end
local all = redis.call('HGETALL', key('unacked:' .. ARGV[1]))
for i = 1, #all, 2 do
  if all[i] ~= '+' then
    for id in string.gmatch(all[i + 1], '%S+') do
      if #reply == 1024 then return reply end
      hold(all[i], id)
    end
  end
end
return reply
