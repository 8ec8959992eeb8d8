-- Finds jobs by id.
-- ARGV: ids
-- Returns: now, then for each id: where ('' unknown | waiting | running | ended), record, progress ('' if none),
--   score (waiting) or "token due [started deadline]" (running), worker (running)
local reply = { micros(clock(redis.call('HGET', key('meta'), 'offset'))) }
local priorities = redis.call('ZREVRANGE', key('prios'), 0, -1)
local workers = redis.call('ZRANGE', key('leases'), 0, -1)
for _, id in ipairs(ARGV) do
  local where, record, progress, detail, holder = '', redis.call('HGET', key('jobs'), id), '', '', ''
  if record then
    local ended = redis.call('HGET', key('ended'), id)
    if ended then
      where, progress = 'ended', ended
    else
      progress = redis.call('HGET', key('progress'), id) or ''
      for _, priority in ipairs(priorities) do
        local score = redis.call('ZSCORE', key('due:' .. priority), id)
        if score then
          where, detail = 'waiting', micros(tonumber(score))
          break
        end
      end
      if where == '' then
        for _, worker in ipairs(workers) do
          local held = redis.call('HGET', key('unacked:' .. worker), id)
          if held then
            where, detail, holder = 'running', held, worker
            break
          end
        end
      end
    end
  end
  for _, part in ipairs({ where, record or '', progress, detail, holder }) do reply[#reply + 1] = part end
end
return reply
