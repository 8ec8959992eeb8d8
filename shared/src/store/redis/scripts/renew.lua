-- Prolongs a worker's lease, notes what it has begun.
-- ARGV: worker, lease (micros), n, then n times: id, token, started (ms), deadline (ms)
-- Returns: now, lost (0|1), then the ids to cancel
local worker = ARGV[1]
local now = clock(redis.call('HGET', key('meta'), 'offset'))
if redis.call('ZSCORE', key('lost'), worker) then return { micros(now), 1 } end
local unacked = key('unacked:' .. worker)
for i = 1, tonumber(ARGV[3]) do
  local at = i * 4
  local held = redis.call('HGET', unacked, ARGV[at])
  local token = ARGV[at + 1]
  if held and string.sub(held, 1, #token + 1) == token .. ' ' then
    local due = string.match(held, '^%d+ (-?%d+)')
    redis.call('HSET', unacked, ARGV[at], token .. ' ' .. due .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3])
  end
end
redis.call('ZADD', key('leases'), 'XX', now + tonumber(ARGV[2]), worker)
local reply = { micros(now), 0 }
for _, id in ipairs(redis.call('SMEMBERS', key('cancel:' .. worker))) do reply[#reply + 1] = id end
return reply
