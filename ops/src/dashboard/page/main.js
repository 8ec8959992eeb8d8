// The frame around the pages: which page the address means, the header, the keys, and when what is new is drawn.
//
// A page is a function of its context that answers `{title, view, heed?, leave?}`: `view()` describes it, `heed(what)`
// hears of news from the server. While somebody points at a table, selects something or has paused, news wait.

import { help, note, say } from './dialogs.js';
import { dead } from './dead.js';
import { h, patch } from './dom.js';
import { fleet } from './fleet.js';
import { count } from './format.js';
import { job } from './job.js';
import { jobs } from './jobs.js';
import { keys } from './keys.js';
import { alarms } from './alarms.js';
import { listen, live, start as startLive } from './live.js';
import { overview } from './overview.js';
import { icon } from './parts.js';
import { queue } from './queue.js';
import { queues } from './queues.js';
import { start as startSeries } from './series.js';

const PAGES = { overview, queues, queue, jobs, job, fleet, dead };
const TABS = [
  ['overview', 'Overview', 'o'],
  ['queues', 'Queues', 'q'],
  ['jobs', 'Jobs', 'j'],
  ['fleet', 'Fleet', 'f'],
  ['dead', 'Dead letters', 'd'],
];
const UNDER = { queue: 'queues', job: 'jobs' };

const main = document.getElementById('main');
let page = null;
let name = '';
let isPaused = false;
let isPointing = false;
let hasNews = false;

function address() {
  const [place, query] = location.hash.replace(/^#\/?/, '').split('?');
  const [first, ...rest] = place.split('/');
  let parts;
  try {
    parts = rest.map(decodeURIComponent);
  } catch {
    parts = [];
  }
  return { name: Object.hasOwn(PAGES, first) ? first : 'overview', parts, query: new URLSearchParams(query) };
}

function go() {
  const to = address();
  const isSame = page && to.name === name && page.move?.(to);
  if (!isSame) {
    page?.leave?.();
    name = to.name;
    page = PAGES[name]({ ...to, draw });
    patch(main, []);
    main.scrollTo?.(0, 0);
    scrollTo(0, 0);
    isPointing = false;
  }
  document.title = `${page.title()} · Roundsman`;
  if (!isSame && document.activeElement !== document.body) main.focus({ preventScroll: true });
  draw();
}

function draw() {
  hasNews = false;
  patch(main, page.view());
  drawTop();
}

/** Whether what is new would pull something away from under somebody. */
function isHeld() {
  const selection = getSelection();
  const isSelecting = selection.type === 'Range' && main.contains(selection.anchorNode);
  return isPaused || isPointing || isSelecting || page.isHeld?.();
}

function news(what) {
  if (what === 'link' && live.link === 'stale') say('The connection is lost; trying again');
  if (isHeld()) {
    hasNews = true;
    drawTop();
    return;
  }
  page.heed?.(what);
  draw();
}

function release() {
  if (hasNews && !isHeld()) draw();
  else drawTop();
}

function pause(value) {
  isPaused = value;
  note(isPaused ? 'Live updates are paused' : 'Live updates go on');
  release();
}

function badge() {
  if (live.link !== 'live') return ['stale', live.link === 'stale' ? 'Reconnecting' : 'Connecting'];
  return isHeld() ? ['paused', 'Paused'] : ['live', 'Live'];
}

function theme() {
  const isDark = matchMedia('(prefers-color-scheme: dark)').matches;
  const before = document.documentElement.dataset.theme ?? (isDark ? 'dark' : 'light');
  const after = before === 'dark' ? 'light' : 'dark';
  document.documentElement.dataset.theme = after;
  try {
    localStorage.setItem('roundsman-theme', after);
  } catch {
    /* it is forgotten with the page, then */
  }
  drawTop();
}

function drawTop() {
  const [kind, word] = badge();
  const numbers = {
    fleet: alarms().length,
    dead: (live.state?.queues ?? []).reduce((sum, it) => sum + it.dead, 0),
  };
  const tab = ([to, title]) => {
    const [short, more] = title.split(' ');
    const isHere = (UNDER[name] ?? name) === to;
    return h(
      'a',
      { href: `#/${to}`, 'aria-current': isHere ? 'page' : undefined },
      h('span', {}, short, more && h('span', { class: 'more' }, ` ${more}`)),
      numbers[to] > 0 &&
        h(
          'span',
          { class: to === 'fleet' ? 'badge bad' : 'badge' },
          to === 'fleet' && h('span', { class: 'hidden' }, 'alarms: '),
          count(numbers[to]),
        ),
    );
  };
  patch(document.getElementById('top'), [
    h(
      'a',
      { class: 'brand', href: '#/overview' },
      h('img', { src: 'dashboard/icon.svg', alt: '', width: 20, height: 20 }),
      'Roundsman',
    ),
    h('nav', { 'aria-label': 'Pages' }, TABS.map(tab)),
    h(
      'div',
      { class: 'tools' },
      h(
        'button',
        {
          type: 'button',
          class: `link link-${kind}`,
          'aria-pressed': String(isPaused),
          title: isPaused ? 'Go on (p)' : 'Pause live updates (p)',
          onclick: () => pause(!isPaused),
        },
        h('i', { 'aria-hidden': 'true' }),
        word,
      ),
      h(
        'button',
        {
          type: 'button',
          class: 'quiet',
          title: 'Light or dark',
          'aria-label': 'Light or dark',
          onclick: theme,
        },
        icon('theme'),
      ),
      h(
        'button',
        {
          type: 'button',
          class: 'quiet',
          title: 'Keyboard (?)',
          'aria-label': 'Keyboard',
          onclick: showHelp,
        },
        icon('help'),
      ),
    ),
  ]);
}

const keyboard = keys({
  '/': [
    'search jobs',
    () => {
      const field = document.querySelector('[data-search]');
      if (field) field.focus();
      else location.hash = '#/jobs?focus';
    },
  ],
  ...Object.fromEntries(
    TABS.map(([to, title, key]) => [
      `g ${key}`,
      [
        `go to ${title.toLowerCase()}`,
        () => {
          location.hash = `#/${to}`;
        },
      ],
    ]),
  ),
  j: ['next row', () => row(1)],
  k: ['row before', () => row(-1)],
  x: ['select the row', () => rowNow()?.querySelector('input[type=checkbox]')?.click()],
  Enter: ['open the row', null],
  p: ['pause live updates, or go on', () => pause(!isPaused)],
  '?': ['this list', () => showHelp()],
});

function showHelp() {
  return help(keyboard.list, keyboard.isOn, keyboard.turn);
}

const rowNow = () => document.activeElement?.closest('[data-row]');

function row(step) {
  const rows = [...main.querySelectorAll('[data-row]')];
  const at = rows.indexOf(rowNow());
  const next =
    rows[at < 0 ? (step > 0 ? 0 : rows.length - 1) : Math.max(0, Math.min(rows.length - 1, at + step))];
  (next?.querySelector('a') ?? next?.querySelector('button, input'))?.focus();
}

document.addEventListener('pointerover', (event) => {
  const before = isPointing;
  isPointing = event.pointerType === 'mouse' && Boolean(event.target.closest?.('[data-hold]'));
  if (before !== isPointing) release();
});
document.documentElement.addEventListener('pointerleave', () => {
  isPointing = false;
  release();
});
document.addEventListener('selectionchange', release);
document.querySelector('.skip').onclick = (event) => {
  event.preventDefault();
  main.focus();
};
addEventListener('hashchange', go);

go();
listen(news);
startSeries(() => news('series'));
startLive();
