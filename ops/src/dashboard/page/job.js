// One job: what it is, why it is not running, what happened to it.

import { get, path, post, remove } from './api.js';
import { commandLine, confirm, copy, note } from './dialogs.js';
import { h } from './dom.js';
import { moment, shell, span } from './format.js';
import { canCancel, canRetry, named } from './jobtable.js';
import { now } from './live.js';
import {
  fact,
  foreign,
  icon,
  link,
  loading,
  outcome,
  state,
  table,
  time,
  toQueue,
  trouble,
} from './parts.js';

const REFRESH = 1000;

export function job({ parts: [queue = '', id = ''], draw }) {
  let found = null;
  let reasons = [];
  let error = null;
  let asked = 0;
  let isOld = false;
  let isOver = false;

  async function load() {
    asked = now();
    isOld = false;
    const where = path('queues', queue, 'jobs', id);
    try {
      const [job, why] = await Promise.all([get(where, null, { isExact: true }), get(`${where}/explain`)]);
      if (isOver) return;
      [found, reasons, error] = [job, why.reasons, null];
    } catch (reason) {
      if (isOver) return;
      error = reason;
    }
    draw();
  }

  function change(verb, text, call) {
    const word = verb.toLowerCase();
    return confirm({
      title: `${verb} ${id}?`,
      text,
      verb: `${verb} the job`,
      isGrave: verb === 'Cancel',
      command: shell('job', word, named(found)),
      run: async () => {
        const after = await call(path('queues', queue, 'jobs', id));
        return after.state ? `${id} is ${after.state}` : `${id} is cancelled`;
      },
    }).then(load, (reason) => note(reason.message, true));
  }

  load();
  return {
    title: () => id,
    leave: () => {
      isOver = true;
    },
    heed: (what) => {
      isOld ||= what === 'state';
      if (isOld && found && canCancel(found) && now() - asked >= REFRESH) load();
    },
    view: () => [
      h('p', { class: 'crumbs' }, link('#/jobs', 'Jobs'), ' / ', link(toQueue(queue), queue), ' /'),
      h(
        'div',
        { class: 'heading' },
        h('h1', { class: 'id' }, id),
        found && state(found.state),
        h('span', { class: 'spring' }),
        found && commandLine(shell('job', 'show', named(found))),
        found &&
          canRetry(found) &&
          h(
            'button',
            {
              type: 'button',
              onclick: () => change('Retry', retryText(found), (where) => post(`${where}/retry`)),
            },
            'Retry',
          ),
        found &&
          canCancel(found) &&
          h(
            'button',
            {
              type: 'button',
              class: 'grave',
              onclick: () =>
                change(
                  'Cancel',
                  found.state === 'running' ? 'It runs, and is told to stop.' : 'It will not run.',
                  remove,
                ),
            },
            'Cancel',
          ),
      ),
      trouble(error),
      !found && !error && loading(),
      found && [
        why(reasons),
        facts(found),
        h('div', { class: 'stack' }, timeline(found), attempts(found), data(found), headers(found)),
      ],
    ],
  };
}

function retryText(job) {
  return job.state === 'scheduled'
    ? 'It becomes due now.'
    : `It is ${job.state}; it becomes due now, with its attempts counted anew.`;
}

function why(reasons) {
  const [first, ...rest] = reasons;
  return (
    first &&
    h(
      'section',
      { class: 'why', 'aria-label': 'Why' },
      h('p', {}, foreign(`${first[0].toUpperCase()}${first.slice(1)}.`)),
      rest.length > 0 &&
        h(
          'ul',
          {},
          rest.map((reason, at) => h('li', { key: at }, foreign(reason))),
        ),
    )
  );
}

function facts(job) {
  return h(
    'dl',
    { class: 'strip' },
    fact('Queue', link(toQueue(job.queue), job.queue)),
    fact('Kind', job.kind ? foreign(job.kind) : '–'),
    fact('Attempts', job.attempt, job.max_attempts ? ` of ${job.max_attempts}` : ''),
    job.crashes > 0 && fact('Crashes', job.crashes),
    fact('Priority', String(job.priority)),
    job.key && fact('Key', foreign(job.key)),
    fact('Created', time(job.created)),
    fact('Due', time(job.due)),
  );
}

/** Where the time went: waiting, running, and why it stopped, to scale. */
function timeline(job) {
  const runs = job.attempts.filter((it) => it.started);
  if (!runs.length) return null;
  const end = job.attempts.at(-1).ended ?? now();
  const start = Math.min(job.created, runs[0].started);
  const length = Math.max(1, end - start);
  const x = (at) => ((at - start) / length) * 1000;
  const bar = (from, to, word, title) =>
    h(
      'rect',
      {
        class: `bar outcome-${word}`,
        x: x(from),
        y: 6,
        width: Math.max(2, x(to) - x(from)),
        height: 16,
        rx: 1,
      },
      h('title', {}, title),
    );
  const ran = runs.reduce((sum, it) => sum + ((it.ended ?? end) - it.started), 0);
  return h(
    'section',
    { class: 'timeline' },
    h('h2', {}, 'Time'),
    h(
      'svg',
      {
        viewBox: '0 0 1000 28',
        preserveAspectRatio: 'none',
        role: 'img',
        'aria-label': `It ran for ${span(ran)} of ${span(length)}, in ${runs.length} attempts`,
      },
      h('rect', { class: 'bar waiting', x: 0, y: 12, width: 1000, height: 4 }),
      runs.map((it) =>
        bar(
          it.started,
          it.ended ?? end,
          it.outcome ?? 'running',
          `Attempt ${it.attempt}: ${it.outcome ?? 'running'}, ${span((it.ended ?? end) - it.started)}`,
        ),
      ),
    ),
    h(
      'p',
      { class: 'ends' },
      h('span', {}, moment(start)),
      h('span', {}, `ran ${span(ran)} of ${span(length)}`),
      h('span', {}, moment(end)),
    ),
  );
}

function attempts(job) {
  const before = new Map();
  job.attempts.forEach((it, at) => before.set(it, at ? job.attempts[at - 1].ended : job.created));
  return h(
    'section',
    {},
    h('h2', {}, 'Attempts'),
    table({
      label: 'Attempts, the newest first',
      rows: job.attempts.toReversed(),
      key: (it) => it.token,
      empty: 'It has not been handed to a worker yet.',
      columns: [
        { head: 'No', kind: 'num', isRowHead: true, cell: (it) => it.attempt },
        { head: 'Outcome', cell: (it) => outcome(it.outcome ?? (it.started ? '' : 'prefetched')) },
        { head: 'Began', kind: 'when', cell: (it) => time(it.started) },
        {
          head: 'After',
          kind: 'num wide',
          cell: (it) => (it.started && before.get(it) ? span(it.started - before.get(it)) : '–'),
        },
        {
          head: 'Ran',
          kind: 'num',
          cell: (it) => (it.started ? span((it.ended ?? now()) - it.started) : '–'),
        },
        { head: 'Worker', cell: (it) => `${it.worker} on ${it.host}` },
        {
          head: 'Error',
          kind: 'text',
          cell: (it) => [
            it.error && foreign(it.error, { class: 'error' }),
            it.stderr_tail &&
              h(
                'details',
                {},
                h('summary', {}, 'Standard error'),
                h('pre', { dir: 'auto', tabindex: '0' }, it.stderr_tail),
              ),
          ],
        },
      ],
    }),
  );
}

function data(job) {
  return h(
    'div',
    { class: 'pair' },
    block('Payload', job.payload),
    job.result !== null
      ? block('Result', job.result)
      : job.error !== null &&
          h(
            'section',
            { class: 'document' },
            h('h2', {}, 'Error'),
            h('pre', { class: 'error', dir: 'auto', tabindex: '0' }, job.error),
          ),
  );
}

/** What turns text around, or is not seen: JSON may spell each of them out. */
const UNSEEN = /[\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

function block(title, value) {
  const text = JSON.stringify(value, null, 2).replaceAll(
    UNSEEN,
    (it) => `\\u${it.charCodeAt(0).toString(16).padStart(4, '0')}`,
  );
  return h(
    'section',
    { class: 'document' },
    h(
      'h2',
      {},
      title,
      h(
        'button',
        {
          type: 'button',
          class: 'quiet',
          'aria-label': `Copy the ${title.toLowerCase()}`,
          onclick: () => copy(text),
        },
        icon('copy'),
      ),
    ),
    h('pre', { dir: 'ltr', tabindex: '0' }, text),
  );
}

function headers(job) {
  const rows = Object.entries(job.headers);
  return (
    rows.length > 0 &&
    h(
      'section',
      {},
      h('h2', {}, 'Headers'),
      h(
        'dl',
        { class: 'settings long' },
        rows.map(([name, value]) => fact(name, foreign(value))),
      ),
    )
  );
}
