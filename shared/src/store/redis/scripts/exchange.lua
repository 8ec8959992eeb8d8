-- Writes the outcomes of a worker's deliveries, each only if its token is the current one; then gives the worker its next
-- jobs under a lease. One step, since a busy worker does both at once; either part may be left out.
-- ARGV: worker, max ('' to give nothing), lease (micros), latest (micros or ''), only if lapsed (0|1), keep_done_max,
--   keep_dead_max, remember_ids_max, groups; then for each group of neighbours that share a token:
--     token, kinds (one letter an item), the ids, and for each item
--       p: progress                               done, and nothing else to do
--       f: progress, code, micros, priority, digest ('' if not remembered), more (count), more...
--   more: the follow-ups; for front and after the progress, if any, with which the job ends as cancelled, instead of
--   going on waiting, where its worker had been told to cancel it
--   code: done | dead | cancelled | expired | front (micros: its due time) | after (micros: so long from now)
-- A progress begins with the token of its delivery.
-- Returns: answers (one digit an item: 0 ok, 1 stale, 2 gone); where jobs were asked for also now, token, next due or '',
--   paused (0|1), skewed (0|1), live version, the ids joined by blanks, their records, and, if any of them has a
--   progress, the progress of each ('' if none).
local worker, groups = ARGV[1], tonumber(ARGV[9])
local unacked = key('unacked:' .. worker)
local meta = redis.call('HMGET', key('meta'), 'offset', 'hold', 'waiting', 'running', 'ended', 'token', 'paused',
  'live', 'prios', 'tried')
local now = clock(meta[1])
local waiting, running, ended_total = tonumber(meta[3] or 0), tonumber(meta[4] or 0), tonumber(meta[5] or 0)
local in_use = meta[9] or ''
-- Whether any job that has not ended has a progress: most queues' have none for most of the time.
local tried = meta[10] == '1'
local answers, changed = {}, false

local function hint(due_now, next_due)
  redis.call('PUBLISH', key('hints'), 'work ' .. due_now .. ' ' .. (next_due and micros(next_due) or '-'))
end

-- What becomes of the worker's lease when it holds nothing any more. '+' says that some of its jobs have begun long
-- ago, or are to be cancelled.
local function tidy(marked, taken)
  if marked then
    if #taken > 0 then
      redis.call('HDEL', key('begun:' .. worker), unpack(taken))
      redis.call('SREM', key('cancel:' .. worker), unpack(taken))
    end
    if redis.call('HLEN', unacked) == 1 then
      redis.call('DEL', unacked, key('begun:' .. worker), key('cancel:' .. worker))
    end
  end
  if redis.call('EXISTS', unacked) == 0 then redis.call('ZREM', key('leases'), worker) end
end

-- The answer to an item whose delivery is not there: a repeated call is known by the token that its first one left.
local function last_word(id, prefix, ended)
  local last = redis.call('HGET', key('ended'), id)
  for i = 1, last and 0 or #ended, 2 do if ended[i] == id then last = ended[i + 1] end end
  if not last then last = redis.call('HGET', key('progress'), id) end
  if last and string.sub(last, 1, #prefix) == prefix then return '0' end
  if last or redis.call('HEXISTS', key('jobs'), id) == 1 then return '1' end
  return '2'
end

local function settle()
  local lapsed = true
  if ARGV[5] == '1' then
    local lease = redis.call('ZSCORE', key('leases'), worker)
    lapsed = lease and tonumber(lease) <= now and tonumber(meta[2] or 0) <= now
    -- A worker that was swept before: the answers of then once more, and nothing is taken.
    if not lapsed and not redis.call('ZSCORE', key('lost'), worker) then
      local at, total = 10, 0
      for _ = 1, groups do
        local kinds = ARGV[at + 1]
        total, at = total + #kinds, at + 2 + #kinds
        for i = 1, #kinds do at = at + (string.byte(kinds, i) == 112 and 1 or 6 + tonumber(ARGV[at + 5])) end
      end
      answers[1] = string.rep('1', total)
      return false
    end
  end

  local at, marked = 10, false
  local taken, ended, finished, remembered, dead = {}, {}, {}, {}, {}
  local lists = { done = {}, cancelled = {}, expired = {} }
  local returned, due_now, next_due, moved, fronts = 0, 0, nil, false, {}
  for _ = 1, groups do
    local token, kinds = ARGV[at], ARGV[at + 1]
    local prefix, n = token .. ' ', #kinds
    local ids = { unpack(ARGV, at + 2, at + 1 + n) }
    at = at + 2 + n
    local row = redis.call('HMGET', unacked, token, '+')
    local held = lapsed and row[1]
    marked = marked or (held and row[2])
    -- Mostly a whole pull ends at once, in its order.
    local whole, mine, before = held and held == table.concat(ids, ' '), {}, #taken
    if held and not whole then
      for id in string.gmatch(held, '%S+') do mine[id] = true end
    end
    for i = 1, n do
      local id, progress, full = ids[i], ARGV[at], string.byte(kinds, i) ~= 112
      local code = full and ARGV[at + 1] or 'done'
      if whole or mine[id] then
        answers[#answers + 1] = '0'
        -- The same item may stand in one call twice.
        mine[id] = nil
        taken[#taken + 1] = id
        local again = code == 'front' or code == 'after'
        for f = 1, full and not again and tonumber(ARGV[at + 5]) or 0 do
          redis.call('RPUSH', key('outbox'), ARGV[at + 5 + f])
          moved = true
        end
        -- Whoever cancelled it was promised that it does not start again, however its worker fared.
        if again and row[2] and ARGV[at + 5] == '1' and redis.call('SISMEMBER', key('cancel:' .. worker), id) == 1 then
          code, progress, again = 'cancelled', ARGV[at + 6], false
        end
        if again then
          local priority, number = ARGV[at + 3], tonumber(ARGV[at + 2])
          local zset, due = key('due:' .. priority), number
          if code == 'front' then
            fronts[#fronts + 1] = { zset, number, id }
            due_now = due_now + 1
          else
            due = now + number
            if due <= now then due_now = due_now + 1 elseif not next_due or due < next_due then next_due = due end
            redis.call('ZADD', zset, micros(due), id)
          end
          in_use = with_priority(in_use, priority)
          redis.call('HSET', key('progress'), id, prefix .. micros(due) .. string.sub(progress, #prefix))
          returned, tried = returned + 1, true
        else
          ended[#ended + 1] = id
          ended[#ended + 1] = progress
          finished[#finished + 1] = id
          if code == 'dead' then
            dead[#dead + 1] = micros(now / 1000)
            dead[#dead + 1] = id
          else
            local list = lists[code]
            list[#list + 1] = id
          end
          if full and ARGV[at + 4] ~= '' then
            redis.call('HSET', key('digests'), id, ARGV[at + 4])
            remembered[#remembered + 1] = micros(now / 1000)
            remembered[#remembered + 1] = id
          end
        end
      else
        answers[#answers + 1] = last_word(id, prefix, ended)
      end
      at = at + (full and 6 + tonumber(ARGV[at + 5]) or 1)
    end
    if whole then
      redis.call('HDEL', unacked, token)
    elseif #taken > before then
      local left = {}
      for id in string.gmatch(held, '%S+') do if mine[id] then left[#left + 1] = id end end
      if #left == 0 then
        redis.call('HDEL', unacked, token)
      else
        redis.call('HSET', unacked, token, table.concat(left, ' '))
      end
    end
  end
  if #taken == 0 then return false end
  -- From the last to the first, each before the others: they keep their order.
  for i = #fronts, 1, -1 do
    local zset, due, id = unpack(fronts[i])
    redis.call('ZADD', zset, micros(front(zset, due)), id)
  end

  -- From the first job on that was taken from it: it must stop, and not prolong what is left.
  if ARGV[5] == '1' then redis.call('ZADD', key('lost'), micros(now / 1000), worker) end
  running, waiting, changed = running - #taken, waiting + returned, true
  if returned > 0 then hint(due_now, next_due) end
  -- Whoever moves follow-ups looks at the queue when it is told of a change.
  if moved then redis.call('PUBLISH', key('hints'), 'changed') end
  if #finished > 0 then
    redis.call('HSET', key('ended'), unpack(ended))
    ended_total = ended_total + #finished
    if tried and redis.call('HDEL', key('progress'), unpack(finished)) > 0 then
      tried = redis.call('EXISTS', key('progress')) == 1
    end
    for list, members in pairs(lists) do
      if #members > 0 then cut(list, redis.call('RPUSH', key(list), unpack(members)), tonumber(ARGV[6])) end
    end
    if #dead > 0 then
      redis.call('ZADD', key('dead'), unpack(dead))
      local over = redis.call('ZCARD', key('dead')) - tonumber(ARGV[7])
      if over > 0 then
        local old = redis.call('ZRANGE', key('dead'), 0, math.min(over, 512) - 1)
        redis.call('ZREM', key('dead'), unpack(old))
        forget(old)
      end
    end
  end
  if #remembered > 0 then
    redis.call('ZADD', key('remembered'), unpack(remembered))
    local over = redis.call('ZCARD', key('remembered')) - tonumber(ARGV[8])
    if over > 0 then
      local old = redis.call('ZRANGE', key('remembered'), 0, math.min(over, 512) - 1)
      redis.call('ZREM', key('remembered'), unpack(old))
      redis.call('HDEL', key('digests'), unpack(old))
    end
  end
  return true, marked, taken
end

local reply = { '', micros(now), '', '', 0, 0, meta[8] or '0', '' }

-- Answers the ids given, if any.
local function pull()
  -- Whoever pulls lives: what it holds already is its own for one more lease, even if it is given no more.
  local until_text = micros(now + tonumber(ARGV[3]))
  local latest = tonumber(ARGV[4])
  local paused, skewed = meta[7] == '1', latest and now > latest
  if paused then reply[5] = 1 end
  if skewed then reply[6] = 1 end
  local ids, next_due, left = {}, nil, tonumber(ARGV[2])
  if paused then left = 0 end
  if not skewed then
    local now_text, emptied = reply[2], false
    for priority in priorities(in_use) do
      local zset, short = key('due:' .. priority), true
      if left > 0 then
        -- One more than wanted tells whether more is ready.
        local batch = redis.call('ZRANGEBYSCORE', zset, '-inf', now_text, 'LIMIT', 0, left + 1)
        local take = math.min(#batch, left)
        if take > 0 then
          redis.call('ZREMRANGEBYRANK', zset, 0, take - 1)
          for i = 1, take do ids[#ids + 1] = batch[i] end
          left = left - take
        end
        if #batch > take then
          next_due = now
          break
        end
      end
      local first = redis.call('ZRANGE', zset, 0, 0, 'WITHSCORES')
      if not first[1] then
        emptied = true
        in_use = string.gsub(' ' .. in_use .. ' ', ' ' .. string.gsub(priority, '%-', '%%-') .. ' ', ' ', 1)
        in_use = string.match(in_use, '^%s*(.-)%s*$')
      elseif not next_due or tonumber(first[2]) < next_due then
        next_due = tonumber(first[2])
      end
    end
    changed = changed or emptied
  end
  if next_due then reply[4] = micros(next_due) end
  if #ids == 0 then
    if running > 0 then redis.call('ZADD', key('leases'), 'XX', until_text, worker) end
    return false
  end

  local token = reply[2]
  if meta[6] and tonumber(meta[6]) >= now then token = micros(tonumber(meta[6]) + 1) end
  meta[6], reply[3], reply[8] = token, token, table.concat(ids, ' ')
  local records = redis.call('HMGET', key('jobs'), unpack(ids))
  for i = 1, #ids do reply[8 + i] = records[i] or '' end
  if tried then
    local progress = redis.call('HMGET', key('progress'), unpack(ids))
    for i = 1, #ids do reply[8 + #ids + i] = progress[i] or '' end
  end
  redis.call('HSET', unacked, token, reply[8])
  redis.call('ZADD', key('leases'), until_text, worker)
  waiting, running, changed = waiting - #ids, running + #ids, true
  return true
end

local took, marked, taken = false, false, nil
if groups > 0 then took, marked, taken = settle() end
local given = ARGV[2] ~= '' and pull()
if took and (marked or not given) then tidy(marked, taken) end
if changed then
  redis.call('HSET', key('meta'), 'waiting', micros(waiting), 'running', micros(running), 'ended', micros(ended_total),
    'token', meta[6] or '0', 'prios', in_use, 'tried', tried and 1 or 0)
end
reply[1] = table.concat(answers)
if ARGV[2] == '' then return { reply[1] } end
return reply
