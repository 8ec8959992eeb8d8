// Dead letters by the cause that they share, and running them again by the cause.

import { get, path, post } from './api.js';
import { commandLine, confirm, note } from './dialogs.js';
import { h } from './dom.js';
import { count, many, shell } from './format.js';
import { each } from './jobtable.js';
import { live, now } from './live.js';
import {
  foreign,
  icon,
  link,
  loading,
  sortBy,
  sorted,
  table,
  time,
  toJob,
  toJobs,
  trouble,
} from './parts.js';

const REFRESH = 10_000;
const PAGE = 500;
/** Of one cause at a time; the rest is there for the next time. */
const MOST = 10_000;
/** The most that the server groups in one go. */
const ALL = 100_000;

export function dead({ query, draw }) {
  let answer = null;
  let error = null;
  let asked = 0;
  let seen = -1;
  let look = null;
  const wanted = query.get('error');
  const sorting = sortBy('Jobs', true, draw);

  const total = () => (live.state?.queues ?? []).reduce((sum, queue) => sum + queue.dead, 0);

  async function load() {
    asked = now();
    seen = total();
    try {
      [answer, error] = [await get('/dead', { by: 'error', look }), null];
    } catch (reason) {
      error = reason;
    }
    draw();
  }

  async function retry(group) {
    note('Counting the dead letters of this cause…');
    const jobs = await collect(group.error);
    await confirm({
      title: `Retry ${many(jobs.length, 'dead letter')}?`,
      text: h(
        'span',
        {},
        'All that broke like this become due now, and may break again: ',
        foreign(group.error || 'no reason is kept', { class: 'error' }),
      ),
      verb: `Retry ${many(jobs.length, 'job')}`,
      command: group.error ? shell('dead', 'retry', '--error', group.error) : shell('dead', 'retry'),
      run: (progress) =>
        each(
          jobs,
          (job) => post(path('queues', job.queue, 'jobs', job.id, 'retry')),
          progress,
          'will run again',
        ),
    });
    await load();
  }

  const columns = [
    {
      head: 'Cause',
      isRowHead: true,
      kind: 'text',
      cell: (row) =>
        link(
          toJobs({ state: 'dead', error: row.error }),
          foreign(row.error || 'no reason is kept', { class: 'clamp2' }),
        ),
    },
    { head: 'Jobs', kind: 'num', sort: (row) => row.count, cell: (row) => h('b', {}, count(row.count)) },
    {
      head: 'Queues',
      cell: (row) =>
        Object.entries(row.queues).map(([queue, size]) =>
          h(
            'span',
            { class: 'run' },
            link(toJobs({ queue, state: 'dead', error: row.error }), queue),
            h('span', { class: 'muted' }, ` ${count(size)}`),
          ),
        ),
    },
    { head: 'First', kind: 'when wide', sort: (row) => row.oldest, cell: (row) => time(row.oldest) },
    { head: 'Last', kind: 'when', sort: (row) => row.newest, cell: (row) => time(row.newest) },
    { head: 'Sample', kind: 'wide id', cell: (row) => sample(row.example) },
    {
      head: 'Do',
      kind: 'do',
      headCell: h('span', { class: 'hidden' }, 'Actions'),
      cell: (row) =>
        h(
          'button',
          {
            type: 'button',
            'aria-label': `Retry all of ${row.error || 'this cause'}`,
            onclick: () => retry(row).catch((reason) => note(reason.message, true)),
          },
          'Retry all',
        ),
    },
  ];

  load();
  return {
    title: () => 'Dead letters',
    heed: () => {
      if (total() !== seen && now() - asked >= REFRESH) load();
    },
    view: () => {
      const groups = answer?.groups.filter((group) => wanted === null || group.error === wanted);
      return [
        h(
          'div',
          { class: 'heading' },
          h('h1', {}, 'Dead letters'),
          groups &&
            h(
              'span',
              { class: 'muted' },
              `${many(
                groups.reduce((sum, group) => sum + group.count, 0),
                'job',
              )}, ${many(groups.length, 'cause')}`,
            ),
          wanted !== null && h('a', { class: 'button', href: '#/dead' }, 'All causes'),
          h('span', { class: 'spring' }),
          commandLine(shell('dead', 'list', '--by', 'error')),
        ),
        trouble(error),
        answer?.more &&
          h(
            'p',
            { class: 'notice' },
            icon('warning'),
            `There are more: the newest ${count(answer.looked)} were looked at. `,
            look === null &&
              h(
                'button',
                {
                  type: 'button',
                  onclick: () => {
                    look = ALL;
                    load();
                  },
                },
                'Look at all',
              ),
          ),
        !answer && !error && loading(),
        groups &&
          table({
            label: 'Dead letters by cause',
            rows: sorted(groups, columns, sorting),
            columns,
            sorting,
            key: (row) => row.error,
            empty: 'No job was given up.',
          }),
      ];
    },
  };
}

function sample(name) {
  const [queue, ...id] = name.split('/');
  return link(toJob(queue, id.join('/')), id.join('/'));
}

/** The dead letters of a cause, before any of them runs again: one that breaks again is not run twice. */
async function collect(error) {
  const jobs = [];
  let cursor = null;
  do {
    const page = await get('/dead', { error, cursor, limit: PAGE });
    jobs.push(...page.jobs.filter((job) => cause(job.error ?? '') === error));
    cursor = page.next;
  } while (cursor && jobs.length < MOST);
  return jobs;
}

/** As the server groups errors: the first line, with numbers as `#`. */
function cause(error) {
  return [...error.split(/\r?\n/)[0]]
    .slice(0, 160)
    .join('')
    .replaceAll(/#?[0-9]+/g, '#');
}
