// What the server tells by itself: one stream of events, opened anew whenever it breaks. It is read by `fetch`,
// since an EventSource can send no token. A hidden page closes it: a browser has few connections to one server.
//
// state   the fleet and the queues, when they change
// point   figures of the last second

import { get, request } from './api.js';

const SILENCE = 5000;
const POLL = 2000;
const SHORTEST = 1000;
const LONGEST = 30_000;
/** Seconds of points that are kept. */
const KEPT = 600;
/** Points of which a rate is the mean. */
const MEAN = 5;

export const live = {
  /** The object of `status --json`, or null before it is known; `isLimited` where the token shows only some queues. */
  state: null,
  /** The newest points, the oldest first. */
  points: [],
  /** `connecting`, `live` or `stale`. */
  link: 'connecting',
  /** When a stream was opened; what lies before must be asked for. */
  opened: 0,
};

let skew = 0;
const listeners = new Set();

/** Calls back with `state`, `point` or `link`. Answers how to end that. */
export function listen(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

/** The server's clock, in Unix milliseconds. */
export const now = () => Date.now() + skew;

export const queue = (name) => live.state?.queues.find((it) => it.queue === name);
export const point = () => live.points.at(-1);

/** A rate of a queue as the mean of the last seconds, so that it can be read; null where nothing is known. */
export function recent(name, figure) {
  const known = live.points
    .slice(-MEAN)
    .map((it) => it.queues?.[name]?.[figure])
    .filter((it) => it !== null && it !== undefined);
  return known.length ? known.reduce((a, b) => a + b) / known.length : null;
}

/** Pools over all hosts, as they stand in the state. */
export function pools() {
  return (live.state?.hosts ?? []).flatMap((host) =>
    host.pools.map((pool) => ({ host: host.host, ...pool })),
  );
}

function tell(what) {
  for (const listener of listeners) listener(what);
}

function linked(link) {
  if (live.link === link) return;
  live.link = link;
  tell('link');
}

/** Keeps the stream open for as long as the page lives. */
export async function start() {
  let pause = SHORTEST;
  for (;;) {
    await visible();
    const began = Date.now();
    await follow().catch(() => {});
    if (document.hidden) continue;
    linked('stale');
    // A server that takes us and drops us at once is not hurried either.
    if (Date.now() - began > LONGEST) pause = SHORTEST;
    await wait(pause * (0.75 + Math.random() / 2));
    pause = Math.min(pause * 2, LONGEST);
  }
}

async function follow() {
  let state;
  try {
    state = await get('/fleet');
  } catch (reason) {
    if (reason.status === 403) return poll();
    throw reason;
  }
  // How things stand before the stream tells, and while there is none.
  if (live.link !== 'live') take('state', { ...live.state, ...state });
  return stream();
}

/** For a token of some queues only, to which the fleet is not shown: the numbers of its queues. */
async function poll() {
  while (!document.hidden) {
    const { queues } = await get('/queues');
    linked('live');
    take('state', { hosts: [], store: null, isLimited: true, queues });
    await wait(POLL);
  }
}

async function stream() {
  const stop = new AbortController();
  let watch;
  const heard = () => {
    clearTimeout(watch);
    watch = setTimeout(() => stop.abort(), SILENCE);
  };
  const hide = () => document.hidden && stop.abort();
  document.addEventListener('visibilitychange', hide);
  try {
    const response = await request('GET', '/events', { signal: stop.signal });
    if (!response.ok) return;
    live.opened = now();
    heard();
    let rest = '';
    const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      heard();
      const events = (rest + value).split(/\r?\n\r?\n/);
      rest = events.pop();
      events.forEach(read);
    }
  } finally {
    clearTimeout(watch);
    document.removeEventListener('visibilitychange', hide);
    stop.abort();
  }
}

function read(text) {
  let event = '';
  const data = [];
  for (const line of text.split(/\r?\n/)) {
    if (line.startsWith('event:')) event = line.slice(6).trim();
    else if (line.startsWith('data:')) data.push(line.slice(5));
  }
  if (!data.length || (event !== 'state' && event !== 'point')) return;
  linked('live');
  take(event, JSON.parse(data.join('\n')));
}

function take(event, value) {
  if (event === 'state') {
    if (value.now) skew = value.now - Date.now();
    live.state = value;
  } else {
    live.points.push(value);
    if (live.points.length > KEPT) live.points.shift();
  }
  tell(event);
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

function visible() {
  if (!document.hidden) return Promise.resolve();
  return new Promise((done) => {
    const look = () => {
      if (document.hidden) return;
      document.removeEventListener('visibilitychange', look);
      done();
    };
    document.addEventListener('visibilitychange', look);
  });
}
