-- Makes room for work: forgets the oldest of what has ended well and is only kept to be read, before its time.
-- ARGV: what ended in the last so many ms stays: somebody may be about to look at it
-- Returns how many, at most 512.
local before = math.floor(clock(redis.call('HGET', key('meta'), 'offset')) / 1000) - tonumber(ARGV[1])
for _, list in ipairs({ 'done', 'cancelled', 'expired' }) do
  local gone = cut_until(list, before, 512)
  if gone > 0 then return gone end
end
return 0
