-- Writes the outcomes of a worker's deliveries, each only if its token is the current one.
-- ARGV: worker, only if lapsed (0|1), keep_done_max, keep_dead_max, remember_ids_max, plain, n, then
--   plain times: id, progress                                         done, and nothing else to do
--   n - plain times: id, progress, token, code, after (micros), priority, digest ('' if not remembered),
--     follow-ups (count), follow-up...
--   code: done | dead | cancelled | expired | front | after
-- A progress begins with the token of its delivery.
-- Returns n times: 0 ok | 1 stale | 2 gone
local worker, plain, n = ARGV[1], tonumber(ARGV[6]), tonumber(ARGV[7])
local meta = redis.call('HMGET', key('meta'), 'offset', 'hold')
local now = clock(meta[1])
local unacked = key('unacked:' .. worker)
local lapsed = true
if ARGV[2] == '1' then
  local lease = redis.call('ZSCORE', key('leases'), worker)
  lapsed = lease and tonumber(lease) <= now and tonumber(meta[2] or 0) <= now
  -- A worker that was swept before: the answers of then once more, and nothing is taken.
  if not lapsed and not redis.call('ZSCORE', key('lost'), worker) then
    local stale = {}
    for i = 1, n do stale[i] = 1 end
    return stale
  end
end

local items, ids, at = {}, {}, 8
for i = 1, plain do
  items[i], ids[i] = at, ARGV[at]
  at = at + 2
end
for i = plain + 1, n do
  items[i], ids[i] = at, ARGV[at]
  at = at + 8 + tonumber(ARGV[at + 7])
end
local held = {}
for i, row in ipairs(redis.call('HMGET', unacked, unpack(ids))) do held[ids[i]] = row end

local reply, taken, finished, ended, remembered = {}, {}, {}, {}, {}
local done, moved = {}, false
local lists = { done = done, cancelled = {}, expired = {} }
local count, ended_count, returned, due_now, next_due = 0, 0, 0, 0, nil
local prefix = ' '
for i = 1, n do
  at = items[i]
  local id, progress, mine, code = ids[i], ARGV[at + 1], held[ids[i]], 'done'
  -- Deliveries of one pull share their token.
  if string.sub(progress, 1, #prefix) ~= prefix then prefix = string.match(progress, '^%d+ ') end
  if i > plain then
    code = ARGV[at + 3]
    prefix = ARGV[at + 2] .. ' '
  end
  if lapsed and mine and string.sub(mine, 1, #prefix) == prefix then
    reply[i] = 0
    -- The same item may stand in one call twice.
    held[id] = false
    count = count + 1
    taken[count] = id
    if i <= plain then
      ended_count = ended_count + 1
      ended[ended_count * 2 - 1] = id
      ended[ended_count * 2] = progress
      finished[ended_count] = id
      done[#done + 1] = id
    elseif code == 'front' or code == 'after' then
      local zset, score = key('due:' .. ARGV[at + 5]), nil
      if code == 'front' then
        score = front(zset, tonumber(string.match(mine, '^%d+ (-?%d+)')))
        due_now = due_now + 1
      else
        score = now + tonumber(ARGV[at + 4])
        if score <= now then due_now = due_now + 1 elseif not next_due or score < next_due then next_due = score end
      end
      redis.call('ZADD', zset, score, id)
      redis.call('ZADD', key('prios'), ARGV[at + 5], ARGV[at + 5])
      redis.call('HSET', key('progress'), id, progress)
      returned = returned + 1
    else
      ended_count = ended_count + 1
      ended[ended_count * 2 - 1] = id
      ended[ended_count * 2] = progress
      finished[ended_count] = id
      if code == 'dead' then
        redis.call('ZADD', key('dead'), math.floor(now / 1000), id)
      else
        local list = lists[code]
        list[#list + 1] = id
      end
      if ARGV[at + 6] ~= '' then
        redis.call('HSET', key('digests'), id, ARGV[at + 6])
        remembered[#remembered + 1] = math.floor(now / 1000)
        remembered[#remembered + 1] = id
      end
    end
    for f = 1, i > plain and tonumber(ARGV[at + 7]) or 0 do
      redis.call('RPUSH', key('outbox'), ARGV[at + 7 + f])
      moved = true
    end
  else
    -- A repeated call is known by the token that its first one left behind.
    local last = redis.call('HGET', key('ended'), id)
    if not last then
      for e = 1, #ended, 2 do if ended[e] == id then last = ended[e + 1] end end
    end
    if not last then last = redis.call('HGET', key('progress'), id) end
    if last and string.sub(last, 1, #prefix) == prefix then
      reply[i] = 0
    elseif last or redis.call('HEXISTS', key('jobs'), id) == 1 then
      reply[i] = 1
    else
      reply[i] = 2
    end
  end
end
if count == 0 then return reply end

redis.call('HDEL', unacked, unpack(taken))
if redis.call('EXISTS', key('cancel:' .. worker)) == 1 then
  redis.call('SREM', key('cancel:' .. worker), unpack(taken))
end
if redis.call('EXISTS', unacked) == 0 then
  redis.call('ZREM', key('leases'), worker)
  redis.call('DEL', key('cancel:' .. worker))
end
-- From the first job on that was taken from it: it must stop, and not prolong what is left.
if ARGV[2] == '1' then redis.call('ZADD', key('lost'), math.floor(now / 1000), worker) end
redis.call('HINCRBY', key('meta'), 'running', -count)
if returned > 0 then
  redis.call('HINCRBY', key('meta'), 'waiting', returned)
  redis.call('PUBLISH', key('hints'), 'work ' .. due_now .. ' ' .. (next_due and micros(next_due) or '-'))
end
-- Whoever moves follow-ups looks at the queue when it is told of a change.
if moved then redis.call('PUBLISH', key('hints'), 'changed') end
if ended_count > 0 then
  redis.call('HSET', key('ended'), unpack(ended))
  redis.call('HINCRBY', key('meta'), 'ended', ended_count)
  if redis.call('EXISTS', key('progress')) == 1 then redis.call('HDEL', key('progress'), unpack(finished)) end
  for list, members in pairs(lists) do
    if #members > 0 then
      redis.call('RPUSH', key(list), unpack(members))
      cut(list, tonumber(ARGV[3]))
    end
  end
  local over = redis.call('ZCARD', key('dead')) - tonumber(ARGV[4])
  if over > 0 then
    local old = redis.call('ZRANGE', key('dead'), 0, math.min(over, 512) - 1)
    redis.call('ZREM', key('dead'), unpack(old))
    redis.call('HDEL', key('ended'), unpack(old))
    redis.call('HDEL', key('jobs'), unpack(old))
  end
end
if #remembered > 0 then
  redis.call('ZADD', key('remembered'), unpack(remembered))
  local over = redis.call('ZCARD', key('remembered')) - tonumber(ARGV[5])
  if over > 0 then
    local old = redis.call('ZRANGE', key('remembered'), 0, math.min(over, 512) - 1)
    redis.call('ZREM', key('remembered'), unpack(old))
    redis.call('HDEL', key('digests'), unpack(old))
  end
end
return reply
