-- Finds jobs by id.
-- ARGV: ids
-- Returns: now, then for each id: where ('' unknown | waiting | running | ended), record, progress ('' if none),
--   score (waiting) or "token [started deadline]" (running), worker (running)
local meta = redis.call('HMGET', key('meta'), 'offset', 'prios')
local reply = { micros(clock(meta[1])) }
-- Where the parts of an id that was found nowhere yet begin in the reply. Whoever waits or has ended is found by its id;
-- what runs is looked for in what each worker holds.
local sought, left = {}, 0

local function answer(at, where, detail, holder)
  reply[at], reply[at + 3], reply[at + 4] = where, detail, holder
end

for i, id in ipairs(ARGV) do
  local at = 2 + (i - 1) * 5
  local record = redis.call('HGET', key('jobs'), id)
  local ended = record and redis.call('HGET', key('ended'), id)
  reply[at + 1], reply[at + 2] = record or '', ended or (record and redis.call('HGET', key('progress'), id)) or ''
  answer(at, ended and 'ended' or '', '', '')
  if record and not ended then
    local score
    for priority in priorities(meta[2]) do
      score = redis.call('ZSCORE', key('due:' .. priority), id)
      if score then break end
    end
    if score then
      answer(at, 'waiting', micros(tonumber(score)), '')
    elseif not sought[id] then
      sought[id], left = at, left + 1
    end
  end
end

for _, worker in ipairs(left > 0 and redis.call('ZRANGE', key('leases'), 0, -1) or {}) do
  local all = redis.call('HGETALL', key('unacked:' .. worker))
  for i = 1, #all, 2 do
    for id in string.gmatch(all[i + 1], '%S+') do
      local at = sought[id]
      if at then
        local begun = redis.call('HGET', key('begun:' .. worker), id)
        local current = begun and string.sub(begun, 1, #all[i] + 1) == all[i] .. ' '
        answer(at, 'running', current and begun or all[i], worker)
        sought[id], left = nil, left - 1
      end
    end
  end
  if left == 0 then break end
end
return reply
