// One queue: its figures over time, its jobs by state, its settings.

import { get, path } from './api.js';
import { h } from './dom.js';
import { count, shell, short, span } from './format.js';
import { jobTable } from './jobtable.js';
import { live, queue as known } from './live.js';
import { commandLine } from './dialogs.js';
import { charts, ranges } from './overview.js';
import { fact, link, loading, state, trouble } from './parts.js';
import { pauseButton } from './queues.js';

export const STATES = ['scheduled', 'ready', 'running', 'done', 'dead', 'cancelled', 'expired'];

export function queue({ parts: [name = ''], query, draw }) {
  let settings = null;
  let error = null;
  let word = STATES.includes(query.get('state')) ? query.get('state') : null;
  const jobs = jobTable({ draw, isOfOne: true, where: () => ({ queue: name, state: word ?? '' }) });

  get(path('queues', name))
    .then(
      (answer) => {
        settings = answer;
      },
      (reason) => {
        error = reason;
      },
    )
    .finally(draw);
  jobs.load();

  return {
    title: () => name,
    move: (to) => {
      if (to.parts[0] !== name) return false;
      word = STATES.includes(to.query.get('state')) ? to.query.get('state') : null;
      jobs.load();
      return true;
    },
    heed: jobs.heed,
    isHeld: jobs.isHeld,
    view: () => {
      const row = known(name) ?? settings;
      return [
        h('p', { class: 'crumbs' }, link('#/queues', 'Queues'), ' /'),
        h(
          'div',
          { class: 'heading' },
          h('h1', {}, name),
          row?.paused && state('paused'),
          h('span', { class: 'spring' }),
          row && pauseButton(row, draw),
          ranges(draw),
        ),
        trouble(error),
        !error && !row && loading(),
        row && [
          h(
            'dl',
            { class: 'strip' },
            fact('Oldest due for', span(row.oldest_due_ms)),
            fact('Enqueued', short(row.enqueued_total)),
            fact('Finished', short(row.ended_total)),
            fact('In the inbox', count(row.inbox)),
            fact('Served by', servers(name)),
          ),
          live.state && charts(name),
          h(
            'nav',
            { class: 'tabs', 'aria-label': 'States' },
            [null, ...STATES].map((it) =>
              h(
                'a',
                {
                  href: `#/queue/${encodeURIComponent(name)}${it ? `?state=${it}` : ''}`,
                  'aria-current': it === word ? 'true' : undefined,
                },
                it ? state(it) : 'all',
                it && h('b', { class: row[it] ? '' : 'zero' }, count(row[it])),
              ),
            ),
          ),
          jobs.view(),
          settings?.settings && settingList(name, settings),
        ],
      ];
    },
  };
}

function servers(name) {
  const pools = (live.state?.hosts ?? []).flatMap((host) =>
    host.pools.filter((pool) => pool.queues?.includes(name)).map((pool) => `${pool.pool} on ${host.host}`),
  );
  return pools.length ? link('#/fleet', pools.join(', ')) : 'no running pool';
}

function settingList(name, { settings, live: changed }) {
  return h(
    'details',
    { class: 'panel' },
    h('summary', {}, h('h2', {}, 'Settings')),
    h(
      'dl',
      { class: 'settings' },
      Object.entries(settings).map(([key, value]) => {
        const isSpan = key.endsWith('_ms');
        const word = isSpan ? key.slice(0, -3) : key;
        return fact(
          word,
          value === null
            ? 'no limit'
            : isSpan
              ? span(value)
              : typeof value === 'object'
                ? JSON.stringify(value)
                : String(value),
          Object.hasOwn(changed ?? {}, word) && h('span', { class: 'badge' }, 'set live'),
        );
      }),
    ),
    commandLine(shell('queue', 'show', name)),
  );
}
