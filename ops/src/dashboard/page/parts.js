// Small parts that all pages are made of.

import { h } from './dom.js';
import { count, moment, relative } from './format.js';
import { now } from './live.js';

const ICONS = {
  scheduled: 'M8 2.2a5.8 5.8 0 1 0 0 11.6A5.8 5.8 0 0 0 8 2.2M8 4.8V8l2.2 1.6',
  ready: 'M8 3.2a4.8 4.8 0 1 0 0 9.6 4.8 4.8 0 0 0 0-9.6',
  running: 'M5 3.4 12.4 8 5 12.6Z',
  done: 'm3 8.6 3.2 3.2L13 4.8',
  dead: 'M3.8 3.8l8.4 8.4M12.2 3.8l-8.4 8.4',
  cancelled: 'M8 2.6a5.4 5.4 0 1 0 0 10.8A5.4 5.4 0 0 0 8 2.6M4.2 11.8l7.6-7.6',
  expired: 'M4.5 2.5h7M4.5 13.5h7M5.2 2.5c0 3 5.6 4.4 5.6 11M10.8 2.5c0 3-5.6 4.4-5.6 11',
  paused: 'M5.6 3.4v9.2M10.4 3.4v9.2',
  warning: 'M8 2.4 14.2 13.2H1.8ZM8 6.4v3.4M8 11.6v.2',
  copy: 'M6 5.5h7.2v7.7H6ZM3 10.2V2.8h6.8',
  idle: 'M4.2 8h7.6',
  starting: 'M8 13V3.4M4.4 7 8 3.4 11.6 7',
  stopping: 'M8 3v9.6M4.4 9 8 12.6 11.6 9',
  store:
    'M2.8 4.4c0-2.2 10.4-2.2 10.4 0v7.2c0 2.2-10.4 2.2-10.4 0ZM2.8 4.4c0 2.2 10.4 2.2 10.4 0M2.8 8c0 2.2 10.4 2.2 10.4 0',
  shield: 'M8 2.2 13 4v4c0 3-2.2 5-5 6-2.8-1-5-3-5-6V4Z',
  host: 'M2.6 3h10.8v4H2.6ZM2.6 9h10.8v4H2.6ZM5 5h.2M5 11h.2',
  theme: 'M8 2.6a5.4 5.4 0 1 0 0 10.8ZM8 2.6a5.4 5.4 0 0 1 0 10.8',
  help: 'M5.8 6.2c0-3 4.6-3 4.6 0 0 1.8-2.4 1.8-2.4 3.6M8 12.4v.2',
};

/** Decoration: the word beside it says the same. */
export function icon(name) {
  return h(
    'svg',
    { class: `icon icon-${name}`, viewBox: '0 0 16 16', 'aria-hidden': 'true' },
    h('path', { d: ICONS[name] ?? ICONS.ready }),
  );
}

/** A state by icon and word. */
export function state(word) {
  return h('span', { class: `state state-${word}` }, icon(word), word);
}

const WORKER_ICONS = {
  busy: 'running',
  idle: 'idle',
  starting: 'starting',
  quiet: 'paused',
  draining: 'stopping',
  stopping: 'stopping',
};

export function workerState(word) {
  return h('span', { class: `state worker-${word}` }, icon(WORKER_ICONS[word] ?? 'warning'), word);
}

const OUTCOMES = {
  done: 'done',
  retry: 'warning',
  snooze: 'scheduled',
  dead: 'dead',
  cancelled: 'cancelled',
  expired: 'expired',
  gave_back: 'idle',
  prefetched: 'ready',
};

export function outcome(word) {
  if (!word) return state('running');
  return h(
    'span',
    { class: `state outcome-${word}` },
    icon(OUTCOMES[word] ?? 'dead'),
    word.replaceAll('_', ' '),
  );
}

/** A moment as its distance from now; all of it on demand. */
export function time(at) {
  if (at === null || at === undefined) return h('span', { class: 'muted' }, '–');
  const date = new Date(at);
  const exact = Number.isNaN(date.getTime()) ? undefined : date.toISOString();
  return h('time', { datetime: exact, title: moment(at) }, relative(at, now()));
}

/** Text of strangers: it cannot turn around what stands beside it. */
export function foreign(text, properties) {
  return h('bdi', properties, text);
}

/** A table whose rows are told apart by `key`; columns are `{head, cell(row), kind, sort}`. */
export function table({ label, columns, rows, key, empty, sorting, rowClass }) {
  const head = (column) => {
    const props = { scope: 'col', class: column.kind };
    if (!sorting || !column.sort) return h('th', props, column.headCell ?? column.head);
    const isBy = sorting.by === column.head;
    const direction = isBy ? (sorting.isDown ? 'descending' : 'ascending') : undefined;
    return h(
      'th',
      { ...props, 'aria-sort': direction },
      h(
        'button',
        { type: 'button', class: 'sort', onclick: () => sorting.turn(column.head) },
        column.head,
        isBy && (sorting.isDown ? ' ↓' : ' ↑'),
      ),
    );
  };
  if (!rows.length && empty) return h('div', { class: 'empty' }, empty);
  return h(
    'div',
    { key: `table ${label}`, class: 'scroll', role: 'region', 'aria-label': label, tabindex: '0' },
    h(
      'table',
      { 'data-hold': true },
      h('caption', { class: 'hidden' }, label),
      h('thead', {}, h('tr', {}, columns.map(head))),
      h(
        'tbody',
        {},
        rows.map((row) =>
          h(
            'tr',
            { key: key(row), class: rowClass?.(row), 'data-row': true },
            columns.map((column) =>
              h(
                column.isRowHead ? 'th' : 'td',
                { class: column.kind, scope: column.isRowHead ? 'row' : undefined },
                column.cell(row),
              ),
            ),
          ),
        ),
      ),
    ),
  );
}

/** Rows by a column, the way that was asked for. */
export function sorted(rows, columns, { by, isDown }) {
  const column = columns.find((it) => it.head === by);
  if (!column?.sort) return rows;
  const value = (row) => column.sort(row) ?? -Infinity;
  const order = (a, b) => (a < b ? -1 : a > b ? 1 : 0);
  return rows.toSorted((a, b) => order(value(a), value(b)) * (isDown ? -1 : 1));
}

/** Remembers by which column a table is sorted. */
export function sortBy(by, isDown, changed) {
  const sorting = {
    by,
    isDown,
    turn: (column) => {
      sorting.isDown = sorting.by === column ? !sorting.isDown : true;
      sorting.by = column;
      changed();
    },
  };
  return sorting;
}

/** A number; zero is told softly. */
export function amount(value, className = '') {
  return h('span', { class: value ? className : 'zero' }, count(value));
}

/** Name and value. */
export function fact(name, ...value) {
  return h('div', { class: 'fact' }, h('dt', {}, name), h('dd', {}, value));
}

export function link(hash, ...text) {
  return h('a', { href: hash }, text);
}

export const toQueue = (name) => `#/queue/${encodeURIComponent(name)}`;
export const toJob = (queue, id) => `#/job/${encodeURIComponent(queue)}/${encodeURIComponent(id)}`;

export function toJobs(filter) {
  const query = new URLSearchParams(Object.entries(filter).filter(([, value]) => value));
  return query.size ? `#/jobs?${query}` : '#/jobs';
}

/** Something went wrong with what the page shows. */
export function trouble(error) {
  return error && h('p', { class: 'notice bad', role: 'alert' }, icon('warning'), error.message);
}

export function limited() {
  return h('p', { class: 'notice' }, icon('shield'), 'Your token is for some queues: the fleet is not shown.');
}

export function loading() {
  return h('p', { class: 'muted loading' }, 'Loading…');
}
