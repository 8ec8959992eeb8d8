-- Forgets what has been kept long enough, a bounded piece at a time.
-- ARGV: keep_done_max, keep_done (ms), keep_dead_max, keep_dead (ms), remember_ids_max, remember_ids (ms)
-- Returns 1 if there may be more, else 0.
local now = math.floor(clock(redis.call('HGET', key('meta'), 'offset')) / 1000)
local more = 0
for _, list in ipairs({ 'done', 'cancelled', 'expired' }) do
  if cut(list, redis.call('LLEN', key(list)), tonumber(ARGV[1])) == 512 then more = 1 end
  if cut_until(list, now - tonumber(ARGV[2]), 128) == 128 then more = 1 end
end
local function expire(zset, max, keep, drop)
  local over = math.max(redis.call('ZCARD', key(zset)) - max, redis.call('ZCOUNT', key(zset), '-inf', now - keep))
  if over <= 0 then return end
  local old = redis.call('ZRANGE', key(zset), 0, math.min(over, 256) - 1)
  redis.call('ZREM', key(zset), unpack(old))
  drop(old)
  if over > 256 then more = 1 end
end
expire('dead', tonumber(ARGV[3]), tonumber(ARGV[4]), forget)
expire('remembered', tonumber(ARGV[5]), tonumber(ARGV[6]), function(old)
  redis.call('HDEL', key('digests'), unpack(old))
end)
redis.call('ZREMRANGEBYSCORE', key('lost'), '-inf', now - 3600000)
return more
