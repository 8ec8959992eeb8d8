-- Enters or renews a host in the registry; a script, so that it also works when Redis has no memory left.
-- KEYS[1] is {NAMESPACE} here.
-- ARGV: host, record, lease (ms)
local until_ms = micros(clock() / 1000 + tonumber(ARGV[3]))
redis.call('HSET', key('hosts'), ARGV[1], ARGV[2])
redis.call('ZADD', key('host-leases'), until_ms, ARGV[1])
return 1
