// A page of jobs, with a selection that can be cancelled or retried: the list of the jobs page, and that of a queue.

import { get, path, post, remove } from './api.js';
import { commandLine, confirm } from './dialogs.js';
import { h } from './dom.js';
import { many, shell } from './format.js';
import { now } from './live.js';
import { foreign, link, loading, state, table, time, toJob, toQueue, trouble } from './parts.js';

const LIMIT = 50;
/** The first page follows what happens, at most so often. */
const REFRESH = 2000;
/** Calls at once in a change of many. */
const AT_ONCE = 6;

export const canRetry = (job) => ['scheduled', 'dead', 'cancelled', 'expired', 'done'].includes(job.state);
export const canCancel = (job) => ['scheduled', 'ready', 'running'].includes(job.state);
export const named = (job) => `${job.queue}/${job.id}`;

/** `where()` is what is looked for; `isOfOne` says that it is one queue. */
export function jobTable({ draw, where, isOfOne = false }) {
  let page = null;
  let error = null;
  let trail = [null];
  let chosen = new Set();
  let loads = 0;
  let asked = 0;
  let isOld = false;

  async function load(isAgain = false) {
    if (!isAgain) {
      trail = [null];
      chosen = new Set();
      page = null;
    }
    loads += 1;
    const mine = loads;
    asked = now();
    isOld = false;
    try {
      const answer = await get('/jobs', { ...where(), cursor: trail.at(-1), limit: LIMIT });
      if (mine !== loads) return;
      [page, error] = [answer, null];
    } catch (reason) {
      if (mine !== loads) return;
      error = reason;
    }
    draw();
  }

  function turn(cursor) {
    if (cursor === undefined) trail.pop();
    else trail.push(cursor);
    chosen = new Set();
    load(true);
  }

  const rows = () => page?.jobs ?? [];
  const picked = () => rows().filter((job) => chosen.has(named(job)));

  function pick(names, isIn) {
    for (const name of names)
      if (isIn) chosen.add(name);
      else chosen.delete(name);
    draw();
  }

  function change(verb, can, call) {
    const jobs = picked().filter(can);
    const word = verb.toLowerCase();
    return confirm({
      title: `${verb} ${many(jobs.length, 'job')}?`,
      text: verb === 'Cancel' ? 'Those that run are told to stop.' : 'They become due now.',
      verb: `${verb} ${many(jobs.length, 'job')}`,
      isGrave: verb === 'Cancel',
      command:
        jobs.length === 1
          ? shell('job', word, named(jobs[0]))
          : `printf '%s\\n' ${jobs.map(named).join(' ')} | xargs -n 1 roundsman job ${word}`,
      run: async (progress) => {
        const said = await each(
          jobs,
          call,
          progress,
          `${word === 'cancel' ? 'cancelled' : 'will run again'}`,
        );
        chosen = new Set();
        return said;
      },
    }).then(() => load(true));
  }

  const columns = [
    {
      head: 'Select',
      kind: 'pick',
      headCell: () =>
        h('input', {
          type: 'checkbox',
          'aria-label': 'Select all of this page',
          checked: rows().length > 0 && picked().length === rows().length,
          onchange: (event) => pick(rows().map(named), event.target.checked),
        }),
      cell: (job) =>
        h('input', {
          type: 'checkbox',
          'aria-label': `Select ${named(job)}`,
          checked: chosen.has(named(job)),
          onchange: (event) => pick([named(job)], event.target.checked),
        }),
    },
    { head: 'Job', isRowHead: true, kind: 'id', cell: (job) => link(toJob(job.queue, job.id), job.id) },
    { head: 'State', cell: (job) => state(job.state) },
    !isOfOne && { head: 'Queue', cell: (job) => link(toQueue(job.queue), job.queue) },
    {
      head: 'Kind',
      cell: (job) => (job.kind ? foreign(job.kind, { class: 'clamp' }) : h('span', { class: 'zero' }, '–')),
    },
    { head: 'Attempt', kind: 'num wide', cell: (job) => job.attempt || '–' },
    { head: 'Due', kind: 'when', cell: (job) => time(job.due) },
    {
      head: 'Error',
      kind: 'text wide',
      cell: (job) =>
        job.error && foreign(job.error, { class: 'clamp muted', title: job.error.slice(0, 500) }),
    },
  ].filter(Boolean);

  return {
    load: () => load(),
    isHeld: () => chosen.size > 0,
    /** Follows what happens, on the first page. */
    heed: (what) => {
      isOld ||= what === 'state';
      if (isOld && trail.length === 1 && now() - asked >= REFRESH) load(true);
    },
    view: () => [
      trouble(error),
      !page && !error && loading(),
      page &&
        chosen.size > 0 &&
        h(
          'div',
          { key: 'bulk', class: 'bulk', role: 'group', 'aria-label': 'Selection' },
          h('b', {}, many(picked().length, 'job'), ' selected'),
          bulkButton('Retry', picked().filter(canRetry).length, () =>
            change('Retry', canRetry, (job) => post(path('queues', job.queue, 'jobs', job.id, 'retry'))),
          ),
          bulkButton('Cancel', picked().filter(canCancel).length, () =>
            change('Cancel', canCancel, (job) => remove(path('queues', job.queue, 'jobs', job.id))),
          ),
          h(
            'button',
            { type: 'button', class: 'quiet', onclick: () => pick(rows().map(named), false) },
            'Clear',
          ),
        ),
      page &&
        table({
          label: 'Jobs',
          rows: rows(),
          key: named,
          rowClass: (job) => (chosen.has(named(job)) ? 'chosen' : undefined),
          empty: page.next
            ? 'None of the jobs looked at so far is like that; the next page looks further.'
            : 'No job is like that.',
          columns: columns.map((column) =>
            typeof column.headCell === 'function' ? { ...column, headCell: column.headCell() } : column,
          ),
        }),
      page &&
        h(
          'div',
          { key: 'pager', class: 'pager' },
          h('button', { type: 'button', disabled: trail.length === 1, onclick: () => turn() }, 'Newer page'),
          h('button', { type: 'button', disabled: !page.next, onclick: () => turn(page.next) }, 'Next page'),
          h(
            'span',
            { class: 'muted' },
            `Page ${trail.length}, ${many(rows().length, 'job')}${page.looked ? `; looked at ${page.looked}` : ''}`,
          ),
          h('span', { class: 'spring' }),
          commandLine(listing(where())),
        ),
    ],
  };
}

function bulkButton(verb, size, onclick) {
  return h('button', { type: 'button', disabled: size === 0, onclick }, `${verb} ${size || ''}`.trim());
}

function listing(filter) {
  if (filter.id) return shell('job', 'show', filter.id);
  const states = (filter.state ?? '')
    .split(',')
    .filter(Boolean)
    .flatMap((word) => ['--state', word]);
  const rest = ['queue', 'kind', 'error'].flatMap((name) =>
    filter[name] ? [`--${name}`, filter[name]] : [],
  );
  return shell('job', 'list', ...rest, ...states);
}

/** Calls for each job, a few at once; says how many it was done for, and why not for the others. */
export async function each(jobs, call, progress, word) {
  let [done, failed, next] = [0, 0, 0];
  let reason = '';
  const work = async () => {
    while (next < jobs.length && progress(done + failed, jobs.length)) {
      const job = jobs[next];
      next += 1;
      try {
        await call(job);
        done += 1;
      } catch (error) {
        failed += 1;
        reason ||= error.message;
      }
    }
  };
  await Promise.all(Array.from({ length: AT_ONCE }, work));
  const left = jobs.length - done - failed;
  return `${many(done, 'job')} ${word}${failed ? `; ${failed} refused (${reason})` : ''}${left ? `; ${left} left alone` : ''}`;
}
