-- A queue in numbers.
-- Returns: now, paused, ready, waiting, running, oldest due or '', outbox, inbox, enqueued, ended, done, dead,
--   cancelled, expired
local meta = redis.call('HMGET', key('meta'), 'offset', 'paused', 'waiting', 'running', 'enqueued', 'ended', 'prios')
local now = clock(meta[1])
local ready, oldest = 0, nil
for priority in priorities(meta[7]) do
  local count = redis.call('ZCOUNT', key('due:' .. priority), '-inf', micros(now))
  ready = ready + count
  if count > 0 then
    local first = tonumber(redis.call('ZRANGE', key('due:' .. priority), 0, 0, 'WITHSCORES')[2])
    if not oldest or first < oldest then oldest = first end
  end
end
return {
  micros(now), meta[2] or '0', ready, meta[3] or '0', meta[4] or '0', oldest and micros(oldest) or '',
  redis.call('LLEN', key('outbox')), redis.call('LLEN', key('inbox')), meta[5] or '0', meta[6] or '0',
  redis.call('LLEN', key('done')), redis.call('ZCARD', key('dead')), redis.call('LLEN', key('cancelled')),
  redis.call('LLEN', key('expired')),
}
