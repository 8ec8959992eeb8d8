-- What a worker holds under lease, from the oldest pull, in whole pulls, at most 256 jobs: the next page is what is newer
-- than the last one's.
-- ARGV: worker, newer than this token ('' for all)
-- Returns for each job: id, "token [started deadline]", record, progress ('' if none)
local begun = key('begun:' .. ARGV[1])
local newer, reply, tokens, ids = tonumber(ARGV[2]), {}, {}, {}
local function hold(token, id)
  local row = redis.call('HGET', begun, id)
  reply[#reply + 1] = id
  reply[#reply + 1] = row and string.sub(row, 1, #token + 1) == token .. ' ' and row or token
  reply[#reply + 1] = redis.call('HGET', key('jobs'), id) or ''
  reply[#reply + 1] = redis.call('HGET', key('progress'), id) or ''
end
local all = redis.call('HGETALL', key('unacked:' .. ARGV[1]))
for i = 1, #all, 2 do
  if all[i] ~= '+' and (not newer or tonumber(all[i]) > newer) then
    tokens[#tokens + 1], ids[all[i]] = all[i], all[i + 1]
  end
end
table.sort(tokens, function(a, b) return tonumber(a) < tonumber(b) end)
for _, token in ipairs(tokens) do
  local _, blanks = string.gsub(ids[token], ' ', '')
  if #reply > 0 and #reply / 4 + blanks + 1 > 256 then break end
  for id in string.gmatch(ids[token], '%S+') do hold(token, id) end
end
return reply
