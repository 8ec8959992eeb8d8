-- Prolongs a worker's lease, notes what it has begun.
-- ARGV: worker, lease (micros), n, then n times: id, token, started (ms), deadline (ms)
-- Returns: now, lost (0|1), then the ids to cancel
local worker = ARGV[1]
local now = clock(redis.call('HGET', key('meta'), 'offset'))
if redis.call('ZSCORE', key('lost'), worker) then return { micros(now), 1 } end
local unacked = key('unacked:' .. worker)
local begun = {}
for i = 1, tonumber(ARGV[3]) do
  local at = i * 4
  local id, token = ARGV[at], ARGV[at + 1]
  local held = redis.call('HGET', unacked, token)
  if held and string.find(' ' .. held .. ' ', ' ' .. id .. ' ', 1, true) then
    begun[#begun + 1] = id
    begun[#begun + 1] = token .. ' ' .. ARGV[at + 2] .. ' ' .. ARGV[at + 3]
  end
end
if #begun > 0 then
  redis.call('HSET', key('begun:' .. worker), unpack(begun))
  redis.call('HSET', unacked, '+', 1)
end
redis.call('ZADD', key('leases'), 'XX', micros(now + tonumber(ARGV[2])), worker)
local reply = { micros(now), 0 }
for _, id in ipairs(redis.call('SMEMBERS', key('cancel:' .. worker))) do reply[#reply + 1] = id end
return reply
