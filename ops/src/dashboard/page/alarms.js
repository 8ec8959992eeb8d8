// What an operator should look at, made of what the fleet tells.

import { count, span } from './format.js';
import { live, pools } from './live.js';
import { toQueue } from './parts.js';

/** Entries in an inbox from which on its producers seem to be faster than the queue takes them in. */
const INBOX = 1000;

/** `{key, isBad, text, to}`, the worst first. */
export function alarms() {
  if (!live.state) return [];
  const found = [];
  const add = (key, isBad, text, to) => found.push({ key, isBad, text, to });
  const { hosts, queues, store, isLimited } = live.state;
  if (!hosts.length && !isLimited) add('none', true, 'No host runs: jobs are taken in, and wait', '#/fleet');
  for (const host of hosts) {
    if (host.quiet)
      add(`quiet ${host.host}`, false, `${host.host} is quiet: it takes no new jobs`, '#/fleet');
  }
  for (const { host, pool, quarantined, saturated, why } of pools()) {
    if (quarantined)
      add(
        `quarantine ${host} ${pool}`,
        true,
        `Pool ${pool} on ${host} is quarantined: ${quarantined}`,
        '#/fleet',
      );
    if (saturated)
      add(`saturated ${host} ${pool}`, true, `Pool ${pool} on ${host} is saturated: ${why}`, '#/fleet');
  }
  const served = new Set(pools().flatMap((pool) => pool.queues ?? []));
  for (const { queue, paused, ready, oldest_due_ms: oldest, inbox } of queues) {
    if (paused)
      add(
        `paused ${queue}`,
        false,
        `Queue ${queue} is paused${ready ? `; ${count(ready)} jobs are due` : ''}`,
        toQueue(queue),
      );
    else if (ready && hosts.length && !served.has(queue)) {
      add(
        `unserved ${queue}`,
        true,
        `No running pool serves the queue ${queue}; its oldest job has been due for ${span(oldest)}`,
        toQueue(queue),
      );
    }
    if (inbox >= INBOX)
      add(`inbox ${queue}`, false, `${count(inbox)} entries wait in the inbox of ${queue}`, toQueue(queue));
  }
  if (store?.durability === 'none')
    add('store', true, `The store keeps nothing over a crash: ${store.durability_why ?? ''}`, '#/overview');
  return found.sort((a, b) => Number(b.isBad) - Number(a.isBad));
}
