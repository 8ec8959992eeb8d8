// The processes as they stand: host, supervisor, master, pools, workers; and why there are as many workers.

import { h } from './dom.js';
import { bytes, many, relative, shell } from './format.js';
import { live, now } from './live.js';
import { commandLine } from './dialogs.js';
import { alarms } from './alarms.js';
import { icon, limited, link, loading, table, toJob, toQueue, workerState } from './parts.js';

/** Jobs of a worker that are named. */
const NAMED = 3;

export function fleet() {
  return {
    title: () => 'Fleet',
    view: () => [
      h(
        'div',
        { class: 'heading' },
        h('h1', {}, 'Fleet'),
        h('span', { class: 'spring' }),
        commandLine(shell('status')),
      ),
      !live.state
        ? loading()
        : live.state.isLimited
          ? limited()
          : live.state.hosts.length
            ? live.state.hosts.map(host)
            : h(
                'div',
                { class: 'empty' },
                h('p', {}, 'No host runs. Jobs are taken in, and wait.'),
                commandLine(shell('up')),
              ),
    ],
  };
}

function host(it) {
  const workers = it.pools.flatMap((pool) => pool.workers);
  const memory = workers.reduce((sum, worker) => sum + worker.rss, 0);
  const bad = alarms().filter((alarm) => alarm.isBad && alarm.text.includes(` on ${it.host} `)).length;
  return h(
    'section',
    { key: it.host, class: 'host panel', 'aria-label': `Host ${it.host}` },
    h(
      'h2',
      {},
      icon('host'),
      it.host,
      it.quiet && h('span', { class: 'badge warn' }, icon('paused'), 'quiet'),
      bad > 0 && h('span', { class: 'badge bad' }, many(bad, 'alarm')),
    ),
    h(
      'ul',
      { class: 'tree' },
      h(
        'li',
        {},
        h('span', { class: 'process' }, h('b', {}, 'supervisor'), pid(it.supervisor.pid)),
        h(
          'ul',
          {},
          h(
            'li',
            {},
            h(
              'span',
              { class: 'process' },
              h('b', {}, 'master'),
              pid(it.master.pid),
              h('span', { class: 'muted' }, `since ${relative(it.master.since, now())}`),
              h('span', { class: 'muted' }, `${many(workers.length, 'worker')}, ${bytes(memory)}`),
            ),
            h('ul', {}, it.pools.map(pool)),
          ),
        ),
      ),
    ),
  );
}

function pid(value) {
  return h('span', { class: 'pid' }, `pid ${value}`);
}

function pool(it) {
  const busy = it.workers.filter((worker) => worker.jobs.length).length;
  return h(
    'li',
    { key: it.pool, class: 'pool' },
    h(
      'div',
      { class: 'process' },
      h('b', {}, it.pool),
      h(
        'span',
        {},
        `${many(it.workers.length, 'worker')}, ${it.desired} wanted`,
        busy ? `, ${busy} busy` : '',
      ),
      (it.queues ?? []).map((queue) => [link(toQueue(queue), queue), ' ']),
      it.quarantined && h('span', { class: 'state bad' }, icon('warning'), 'quarantined'),
      it.saturated && h('span', { class: 'state bad' }, icon('warning'), 'saturated'),
    ),
    h(
      'p',
      { class: 'reason' },
      h('b', {}, it.quarantined ? 'Why none starts: ' : `Why ${it.desired}: `),
      it.quarantined ?? it.why,
    ),
    it.workers.length > 0 &&
      table({
        label: `Workers of ${it.pool}`,
        rows: it.workers,
        key: (worker) => worker.id ?? worker.worker,
        columns: [
          { head: 'Worker', isRowHead: true, cell: (worker) => worker.worker },
          { head: 'State', cell: (worker) => workerState(worker.state) },
          { head: 'Pid', kind: 'num', cell: (worker) => worker.pid },
          { head: 'Memory', kind: 'num', cell: (worker) => bytes(worker.rss) },
          { head: 'Jobs', kind: 'text', cell: (worker) => running(worker.jobs) },
        ],
      }),
  );
}

/** Both ends of a long id: generated ones begin alike. */
function brief(id) {
  return id.length > 20 ? `${id.slice(0, 8)}…${id.slice(-6)}` : id;
}

function running(jobs) {
  if (!jobs.length) return h('span', { class: 'zero' }, 'none');
  return [
    jobs
      .slice(0, NAMED)
      .map((job) =>
        h(
          'span',
          { class: 'run' },
          h('a', { href: toJob(job.queue, job.id), title: `${job.queue}/${job.id}` }, brief(job.id)),
          job.attempt > 1 && h('span', { class: 'muted' }, ` attempt ${job.attempt}`),
        ),
      ),
    jobs.length > NAMED && h('span', { class: 'muted' }, `and ${jobs.length - NAMED} more`),
  ];
}
