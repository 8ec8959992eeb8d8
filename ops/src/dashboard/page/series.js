// Figures over time for the charts of all pages: a range, asked for once, and then kept up with the live points.

import { get } from './api.js';
import { listen, live, now } from './live.js';

/** Name, length and step in milliseconds. */
export const RANGES = [
  ['5m', 300_000, 1000],
  ['15m', 900_000, 10_000],
  ['1h', 3_600_000, 10_000],
  ['6h', 21_600_000, 60_000],
  ['24h', 86_400_000, 60_000],
];

const KEPT = 'roundsman-range';
const EMPTY = { t: [], queues: {}, pools: {} };

let range = RANGES.find(([name]) => name === sessionStorage.getItem(KEPT)) ?? RANGES[0];
let data = EMPTY;
let asked = 0;
let loads = 0;
let changed = () => {};

export const rangeName = () => range[0];
export const series = () => data;

export function choose(name) {
  range = RANGES.find(([it]) => it === name) ?? RANGES[0];
  sessionStorage.setItem(KEPT, range[0]);
  data = EMPTY;
  load();
}

/** Keeps the figures up to date from now on; calls back when a request has brought new ones. */
export function start(callback) {
  changed = callback;
  listen((what) => {
    if (what === 'link' && live.link === 'live') load();
    if (what === 'point') heed(live.points.at(-1));
  });
}

function heed(point) {
  const [, length, step] = range;
  if (step === 1000) append(point, length);
  else if (now() - asked >= step) load();
}

async function load() {
  const [, length, step] = range;
  const to = Math.floor(now() / step) * step;
  asked = now();
  loads += 1;
  const mine = loads;
  try {
    const fresh = await get('/series', { from: to - length, to, step });
    if (mine !== loads) return;
    data = { t: fresh.t, queues: fresh.queues, pools: fresh.pools };
    if (step === 1000) for (const point of live.points) append(point, length);
    changed();
  } catch {
    // The points go on; the link's badge says what is wrong.
  }
}

/** Puts a point at the end, and lets go of what the range does not reach any more. */
function append(point, length) {
  const last = data.t.at(-1) ?? 0;
  const t = Math.floor(point.t / 1000) * 1000;
  if (t < last) return;
  const isAgain = t === last;
  const size = data.t.length;
  const from = data.t.findIndex((at) => at > t - length);
  const cut = from < 0 ? size : from;
  const grow = (before, value) => {
    const values = (before ?? new Array(size).fill(null)).slice(cut, isAgain ? size - 1 : size);
    // What the stored figures know and the point does not, stays.
    values.push(value ?? (isAgain ? before?.[size - 1] : null) ?? null);
    return values;
  };
  const merge = (all, news) => {
    const names = new Set([...Object.keys(all), ...Object.keys(news ?? {})]);
    return Object.fromEntries(
      [...names].map((name) => {
        const [before, point] = [all[name] ?? {}, news?.[name] ?? {}];
        const figures = new Set([...Object.keys(before), ...Object.keys(point)]);
        return [
          name,
          Object.fromEntries([...figures].map((figure) => [figure, grow(before[figure], point[figure])])),
        ];
      }),
    );
  };
  data = {
    t: [...data.t.slice(cut, isAgain ? size - 1 : size), t],
    queues: merge(data.queues, point.queues),
    pools: merge(data.pools, point.pools),
  };
}

/** One line over some queues or pools: their sum, or the largest. Null where none of them knows anything. */
export function line(kind, names, figure, isLargest = false) {
  const all = data[kind];
  const lines = (names ?? Object.keys(all)).map((name) => all[name]?.[figure]).filter(Boolean);
  return data.t.map((_, at) => {
    let value = null;
    for (const figures of lines) {
      const next = figures[at];
      if (next === null || next === undefined) continue;
      value = value === null ? next : isLargest ? Math.max(value, next) : value + next;
    }
    return value;
  });
}
