-- Looks at the queue, and at whose lease has lapsed.
-- ARGV: lease (micros), keep no lease from lapsing if the last pulse is younger than this (micros),
--   count what falls due within this (micros)
-- Returns: now, paused, ready, waiting, running, oldest due or '', next due or '', outbox, inbox, live version,
--   enqueued, ended, due soon, then the workers whose lease has lapsed
local meta = redis.call('HMGET', key('meta'), 'offset', 'paused', 'waiting', 'running', 'live', 'enqueued', 'ended',
  'pulse', 'hold', 'prios')
local now = clock(meta[1])
-- When nobody looked for a while, nobody could renew: each gets one whole lease from now.
local hold = tonumber(meta[9] or 0)
if not meta[8] or now - tonumber(meta[8]) > tonumber(ARGV[2]) then
  hold = now + tonumber(ARGV[1])
  redis.call('HSET', key('meta'), 'pulse', micros(now), 'hold', micros(hold))
else
  redis.call('HSET', key('meta'), 'pulse', micros(now))
end
local ready, soon, oldest, next_due = 0, 0, nil, nil
for priority in priorities(meta[10]) do
  local zset = key('due:' .. priority)
  local count = redis.call('ZCOUNT', zset, '-inf', micros(now))
  ready = ready + count
  if count > 0 then
    local first = tonumber(redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')[2])
    if not oldest or first < oldest then oldest = first end
  end
  local coming = redis.call('ZRANGE', zset, count, count, 'WITHSCORES')
  if coming[2] and tonumber(coming[2]) <= now + tonumber(ARGV[3]) then
    soon = soon + redis.call('ZCOUNT', zset, coming[2], micros(now + tonumber(ARGV[3])))
  end
  if coming[2] and (not next_due or tonumber(coming[2]) < next_due) then next_due = tonumber(coming[2]) end
end
local reply = {
  micros(now), meta[2] or '0', ready, meta[3] or '0', meta[4] or '0', oldest and micros(oldest) or '',
  next_due and micros(next_due) or '', redis.call('LLEN', key('outbox')), redis.call('LLEN', key('inbox')),
  meta[5] or '0', meta[6] or '0', meta[7] or '0', soon,
}
-- Where nothing runs nobody holds a lease.
if now >= hold and tonumber(meta[4] or 0) > 0 then
  local lapsed = redis.call('ZRANGEBYSCORE', key('leases'), '-inf', micros(now), 'LIMIT', 0, 16)
  for _, worker in ipairs(lapsed) do
    if redis.call('EXISTS', key('unacked:' .. worker)) == 0 then
      redis.call('ZREM', key('leases'), worker)
    else
      reply[#reply + 1] = worker
    end
  end
end
return reply
