// Everything at a glance: is it well, how much flows, what lags, what broke.

import { alarms } from './alarms.js';
import { get } from './api.js';
import { chart, spark } from './chart.js';
import { h } from './dom.js';
import { count, many, rate, short, span } from './format.js';
import { live, now, point, pools, recent } from './live.js';
import { fact, foreign, icon, limited, link, loading, table, time, toJobs, toQueue } from './parts.js';
import { choose, line, RANGES, rangeName, series } from './series.js';

/** Error groups are counted anew at most so often: that looks at each dead letter. */
const GROUPS_EVERY = 15_000;
const WORST = 6;

export function overview({ draw }) {
  let groups = null;
  let asked = 0;
  let seen = -1;

  const dead = () => live.state.queues.reduce((sum, queue) => sum + queue.dead, 0);

  async function look() {
    if (!live.state || dead() === seen || now() - asked < GROUPS_EVERY) return;
    asked = now();
    seen = dead();
    groups = await get('/dead', { by: 'error' }).then(
      (answer) => answer.groups,
      () => groups,
    );
    draw();
  }

  look();
  return {
    title: () => 'Overview',
    heed: look,
    view: () => [
      h('div', { class: 'heading' }, h('h1', {}, 'Overview'), ranges(draw)),
      live.state
        ? [strip(), alarmList(), tiles(), charts(null), h('div', { class: 'pair' }, worst(), broken(groups))]
        : loading(),
    ],
  };
}

/** Which stretch of time the charts show. */
export function ranges(draw) {
  return h(
    'div',
    { class: 'segments', role: 'group', 'aria-label': 'Range of the charts' },
    RANGES.map(([name]) =>
      h(
        'button',
        {
          type: 'button',
          'aria-pressed': String(name === rangeName()),
          onclick: () => {
            choose(name);
            draw();
          },
        },
        name,
      ),
    ),
  );
}

function strip() {
  const { store, hosts, isLimited } = live.state;
  if (isLimited) return limited();
  const workers = pools().flatMap((pool) => pool.workers);
  const busy = workers.filter((worker) => worker.jobs.length).length;
  const found = alarms();
  const bad = found.filter((alarm) => alarm.isBad).length;
  return h(
    'dl',
    { class: 'strip' },
    fact(
      'Health',
      h(
        'span',
        { class: bad ? 'state bad' : found.length ? 'state warn' : 'state good' },
        icon(found.length ? 'warning' : 'done'),
        found.length ? many(found.length, 'alarm') : 'all well',
      ),
    ),
    fact('Store', icon('store'), h('span', { title: store.url }, store.kind)),
    fact(
      'An acknowledged job survives',
      icon('shield'),
      h('span', { title: store.durability_why }, durability(store.durability)),
    ),
    fact(
      'Hosts',
      icon('host'),
      hosts.length
        ? hosts
            .map((host) => host.host)
            .slice(0, 3)
            .join(', ') + (hosts.length > 3 ? ` and ${hosts.length - 3} more` : '')
        : 'none',
    ),
    fact('Workers', `${busy} busy of ${workers.length}`),
  );
}

function durability(level) {
  return { memory: 'memory only', fsync: 'on disk (fsync)', none: 'nothing' }[level] ?? String(level);
}

function alarmList() {
  const found = alarms();
  return (
    found.length > 0 &&
    h(
      'ul',
      { class: 'alarms', 'aria-label': 'Alarms' },
      found.map((alarm) =>
        h(
          'li',
          { key: alarm.key, class: alarm.isBad ? 'bad' : 'warn' },
          icon('warning'),
          link(alarm.to, alarm.text),
        ),
      ),
    )
  );
}

/** A rate of all queues together. */
function flow(figure) {
  const known = live.state.queues.map((it) => recent(it.queue, figure)).filter((value) => value !== null);
  return known.length ? known.reduce((a, b) => a + b) : null;
}

function longestWait() {
  const known = Object.values(point()?.queues ?? {})
    .map((it) => it.wait_p99_ms ?? null)
    .filter((value) => value !== null);
  return known.length ? Math.max(...known) : null;
}

function tiles() {
  const { queues } = live.state;
  const sum = (figure) => queues.reduce((all, queue) => all + queue[figure], 0);
  const tile = (name, value, more, values, to) =>
    h(
      'section',
      { class: 'tile', key: name },
      h('h2', {}, to ? link(to, name) : name),
      h('p', { class: 'figure' }, value),
      h('p', { class: 'muted' }, more),
      values && spark(values),
    );
  return h(
    'div',
    { class: 'tiles' },
    tile(
      'Enqueued',
      rate(flow('enqueued_per_s')),
      `${short(sum('enqueued_total'))} in all`,
      line('queues', null, 'enqueued_per_s'),
    ),
    tile(
      'Finished',
      rate(flow('ended_per_s')),
      `${short(sum('ended_total'))} in all`,
      line('queues', null, 'ended_per_s'),
    ),
    tile(
      'Wait, p99',
      span(longestWait()),
      'due to start, worst queue',
      line('queues', null, 'wait_p99_ms', true),
    ),
    tile(
      'Dead letters',
      count(sum('dead')),
      sum('dead')
        ? `in ${many(queues.filter((queue) => queue.dead).length, 'queue')}`
        : 'nothing was given up',
      null,
      '#/dead',
    ),
  );
}

/** The charts of all queues, or of one. */
export function charts(queue) {
  const names = queue === null ? null : [queue];
  const { t } = series();
  const number = (value) => short(value);
  const served =
    queue === null
      ? null
      : pools()
          .filter((pool) => pool.queues?.includes(queue))
          .map((pool) => pool.pool);
  return h(
    'div',
    { class: 'charts' },
    chart({
      title: 'Depth',
      t,
      unit: number,
      lines: [
        { name: 'waiting', kind: 'area', values: line('queues', names, 'waiting') },
        { name: 'running', kind: 'line', values: line('queues', names, 'running') },
      ],
    }),
    chart({
      title: 'Rate',
      t,
      unit: rate,
      lines: [
        { name: 'enqueued', kind: 'line', values: line('queues', names, 'enqueued_per_s') },
        { name: 'finished', kind: 'line', values: line('queues', names, 'ended_per_s') },
      ],
    }),
    chart({
      title: queue === null ? 'Wait of the worst queue' : 'Wait',
      t,
      unit: span,
      lines: [
        { name: 'p50', kind: 'line', values: line('queues', names, 'wait_p50_ms', true) },
        { name: 'p99', kind: 'line', values: line('queues', names, 'wait_p99_ms', true) },
      ],
    }),
    chart({
      title: 'Workers',
      t,
      unit: number,
      lines: [
        { name: 'running', kind: 'area', values: line('pools', served, 'workers') },
        { name: 'desired', kind: 'step', values: line('pools', served, 'desired') },
        { name: 'busy', kind: 'line', values: line('pools', served, 'busy') },
      ],
    }),
  );
}

function worst() {
  const rows = live.state.queues
    .filter((queue) => queue.ready > 0)
    .toSorted((a, b) => (b.oldest_due_ms ?? 0) - (a.oldest_due_ms ?? 0) || b.ready - a.ready)
    .slice(0, WORST);
  return h(
    'section',
    { class: 'panel' },
    h('h2', {}, 'Waiting longest'),
    table({
      label: 'Queues whose oldest job waits longest',
      rows,
      key: (row) => row.queue,
      empty: 'No job waits that is due.',
      columns: [
        { head: 'Queue', isRowHead: true, cell: (row) => link(toQueue(row.queue), row.queue) },
        { head: 'Oldest', kind: 'num', cell: (row) => span(row.oldest_due_ms) },
        {
          head: 'Due',
          kind: 'num',
          cell: (row) => link(toJobs({ queue: row.queue, state: 'ready' }), count(row.ready)),
        },
        { head: 'Running', kind: 'num', cell: (row) => count(row.running) },
        { head: 'Out', kind: 'num', cell: (row) => rate(recent(row.queue, 'ended_per_s')) },
      ],
    }),
  );
}

function broken(groups) {
  const rows = (groups ?? []).toSorted((a, b) => (b.newest ?? 0) - (a.newest ?? 0)).slice(0, WORST);
  return h(
    'section',
    { class: 'panel' },
    h('h2', {}, 'Newest causes of dead letters'),
    table({
      label: 'Causes of dead letters, the newest first',
      rows,
      key: (row) => row.error,
      empty: groups ? 'No job was given up.' : 'Loading…',
      columns: [
        {
          head: 'Cause',
          isRowHead: true,
          kind: 'text',
          cell: (row) =>
            link(
              `#/dead?error=${encodeURIComponent(row.error)}`,
              foreign(row.error || 'no reason is kept', { class: 'clamp' }),
            ),
        },
        { head: 'Jobs', kind: 'num', cell: (row) => count(row.count) },
        { head: 'Newest', kind: 'when', cell: (row) => time(row.newest) },
      ],
    }),
  );
}
