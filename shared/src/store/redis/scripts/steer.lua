-- Corrects the queue's clock after the server's has jumped, as somebody measured it who has a clock that never does.
-- ARGV: what the clock should show (micros), how far it may be off (micros)
-- Returns how far it was moved (micros): back after a jump forward; forward again, as far as it had been moved back
-- before, when the jump was undone.
local meta = redis.call('HMGET', key('meta'), 'offset', 'pulse', 'hold')
local offset = tonumber(meta[1] or 0)
local now, expected, guard = clock(offset), tonumber(ARGV[1]), tonumber(ARGV[2])
local move, restored = 0, {}
if now > expected + guard then
  move = expected - now
elseif now < expected - guard and offset < 0 then
  move = math.min(-offset, expected - now)
end
-- Jobs that were enqueued to run at once since a jump forward, and would wait until it is caught up with: each was due
-- when it was made, and so its score is the beginning of its record. At most 4096 of a priority.
local function restore()
  for priority in priorities(redis.call('HGET', key('meta'), 'prios')) do
    local zset = key('due:' .. priority)
    for from = 0, 3840, 256 do
      local ids = redis.call('ZRANGEBYSCORE', zset, '(' .. micros(expected), micros(now), 'WITHSCORES', 'LIMIT', from, 256)
      if #ids == 0 then break end
      local names, moved = {}, {}
      for i = 1, #ids, 2 do names[#names + 1] = ids[i] end
      local records = redis.call('HMGET', key('jobs'), unpack(names))
      for i = 1, #names do
        if records[i] and tonumber(string.sub(records[i], 1, 16)) == tonumber(ids[i * 2]) then
          moved[#moved + 1] = micros(tonumber(ids[i * 2]) + move)
          moved[#moved + 1] = names[i]
        end
      end
      for i = 1, #moved, 2 do restored[#restored + 1] = { zset, moved[i], moved[i + 1] } end
    end
  end
  for _, one in ipairs(restored) do redis.call('ZADD', one[1], one[2], one[3]) end
end
if move < 0 then restore() end
if move ~= 0 then
  redis.call('HSET', key('meta'), 'offset', micros(offset + move))
  for _, name in ipairs({ 'pulse', 'hold' }) do
    local at = redis.call('HGET', key('meta'), name)
    if at and tonumber(at) > expected + 60000000 then redis.call('HSET', key('meta'), name, micros(tonumber(at) + move)) end
  end
end
return micros(move)
