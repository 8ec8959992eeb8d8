-- Enters a name in a set that tells what there is; a script, so that it also works when Redis has no memory left.
-- KEYS[1] is NAMESPACE, or a queue's base key.
-- ARGV: set, name
return redis.call('SADD', key(ARGV[1]), ARGV[2])
