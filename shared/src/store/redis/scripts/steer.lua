-- Corrects the queue's clock after the server's has jumped, as somebody measured it who has a clock that never does.
-- ARGV: what the clock should show (micros), how far it may be off (micros)
-- Returns how far it was moved (micros): back after a jump forward; forward again, as far as it had been moved back
-- before, when the jump was undone.
local meta = redis.call('HMGET', key('meta'), 'offset', 'pulse', 'hold')
local offset = tonumber(meta[1] or 0)
local now, expected, guard = clock(offset), tonumber(ARGV[1]), tonumber(ARGV[2])
local move = 0
if now > expected + guard then
  move = expected - now
elseif now < expected - guard and offset < 0 then
  move = math.min(-offset, expected - now)
end
if move ~= 0 then
  redis.call('HSET', key('meta'), 'offset', micros(offset + move))
  for _, name in ipairs({ 'pulse', 'hold' }) do
    local at = redis.call('HGET', key('meta'), name)
    if at and tonumber(at) > expected + 60000000 then redis.call('HSET', key('meta'), name, micros(tonumber(at) + move)) end
  end
end
return micros(move)
