-- Stores jobs.
-- ARGV: max_waiting, n, width, then n times, where width is 2:
--   id, record without created               due now, priority 0, no expiry, id made by us
-- and where width is 7:
--   id, record without created, priority, 'now'|'in'|'at', micros, expires (micros or ''), digest ('' if the id was made)
-- then, where the jobs come from an inbox: taker, and n times the raw entry. An entry is taken out of the taker's list
-- in the same step as its job comes to exist (or is found to exist); one that is not there any more makes no job.
-- Returns: now, and no more where all were created and are due now; else n times code, detail:
--   0 created (due) | 1 existing | 2 conflict | 3 full (waiting) | 4 expired | 5 its entry was taken by another
--   and one part more, always after the codes, where these are the first jobs that the queue ever had
-- Refused by the server itself when it is out of memory, before anything is written.
local n, width = tonumber(ARGV[2]), tonumber(ARGV[3])
local meta = redis.call('HMGET', key('meta'), 'offset', 'waiting', 'enqueued', 'prios')
local now = clock(meta[1])
local now_text = micros(now)
local waiting, in_use = tonumber(meta[2] or 0), meta[4]
local max_waiting = tonumber(ARGV[1])
local ids = {}
for i = 1, n do ids[i] = ARGV[4 + (i - 1) * width] end
local have = redis.call('HMGET', key('jobs'), unpack(ids))

local function content(record)
  local stop = string.find(record, '\n', 1, true)
  if stop then return string.sub(record, 1, stop - 1) end
  return record
end

local taker = ARGV[4 + n * width]
local function take(i)
  return not taker or redis.call('LREM', key('taking:' .. taker), -1, ARGV[4 + n * width + i]) == 1
end

local reply, records, zsets, seen = { now_text }, {}, {}, {}
local added, due_now, next_due, head_priority = 0, 0, nil, nil
for i = 1, n do
  local at = 4 + (i - 1) * width
  local id, record = ids[i], ARGV[at + 1]
  local priority, mode, digest = '0', 'now', ''
  if width == 7 then priority, mode, digest = ARGV[at + 2], ARGV[at + 3], ARGV[at + 6] end
  local stored = have[i] and string.sub(have[i], 17) or seen[id]
  local code, detail = 0, ''
  if stored then
    code = content(stored) == content(record) and 1 or 2
    if code == 1 then take(i) end
  else
    local remembered = digest ~= '' and redis.call('HGET', key('digests'), id)
    local expires = width == 7 and tonumber(ARGV[at + 5])
    if remembered then
      code = remembered == digest and 1 or 2
      if code == 1 then take(i) end
    elseif expires and expires <= now then
      code = 4
    elseif waiting + added >= max_waiting then
      code, detail = 3, waiting + added
    elseif not take(i) then
      code = 5
    else
      local created, score = now_text, nil
      if mode == 'now' then
        -- Keeps the order of one call, and lies in the past, so that all of it is due at once. It stands as created in
        -- the record, which tells the due time of a job that was given none.
        score = micros(now - n + i - 1)
        created, detail = score, now_text
        due_now = due_now + 1
      else
        local due = tonumber(ARGV[at + 4])
        if mode == 'in' then due = due + now end
        score = micros(due)
        detail = score
        if due <= now then
          due_now = due_now + 1
        elseif not next_due or due < next_due then
          next_due = due
        end
      end
      head_priority = head_priority or priority
      records[added * 2 + 1] = id
      records[added * 2 + 2] = created .. record
      seen[id] = record
      local zset = zsets[priority]
      if not zset then
        zset = {}
        zsets[priority] = zset
        in_use = with_priority(in_use, priority)
      end
      zset[#zset + 1] = score
      zset[#zset + 1] = id
      added = added + 1
    end
  end
  reply[i * 2] = code
  reply[i * 2 + 1] = detail
end
if added == 0 then return reply end

-- A hint is of use only where somebody may sleep: not behind a backlog, nor later than what is awaited anyway.
local hint = true
if due_now == 0 then
  local first = redis.call('ZRANGE', key('due:' .. head_priority), 0, 0, 'WITHSCORES')
  hint = not (first[2] and tonumber(first[2]) > now and tonumber(first[2]) <= next_due)
elseif waiting > 128 then
  local far = redis.call('ZRANGE', key('due:' .. head_priority), 128, 128, 'WITHSCORES')
  hint = not (far[2] and tonumber(far[2]) <= now)
end
redis.call('HSET', key('jobs'), unpack(records))
for priority, zset in pairs(zsets) do
  redis.call('ZADD', key('due:' .. priority), unpack(zset))
end
redis.call('HSET', key('meta'), 'waiting', micros(waiting + added), 'enqueued', micros((meta[3] or 0) + added), 'prios', in_use)
if hint then
  redis.call('PUBLISH', key('hints'), 'work ' .. due_now .. ' ' .. (next_due and micros(next_due) or '-'))
end
-- Whoever had entered the queue in the registry before may have done so in a store that was emptied since.
local new = not meta[3]
if due_now == n and width == 2 and not new then return { now_text } end
if new then reply[#reply + 1] = '' end
return reply
