// Numbers, spans and moments as people read them.

const whole = new Intl.NumberFormat('en', { maximumFractionDigits: 0 });
const UNITS = [
  ['d', 86_400_000],
  ['h', 3_600_000],
  ['m', 60_000],
  ['s', 1000],
];

/** `12,345`; a dash where nothing is known. */
export function count(value) {
  return value === null || value === undefined ? '–' : whole.format(value);
}

/** `1.2k`, `3.4M`: for where there is little room. */
export function short(value) {
  if (value === null || value === undefined) return '–';
  for (const [unit, size] of [
    ['G', 1e9],
    ['M', 1e6],
    ['k', 1e3],
  ]) {
    if (Math.abs(value) >= size) return trim(value / size) + unit;
  }
  return trim(value);
}

function trim(value) {
  const size = Math.abs(value);
  return String(
    size >= 100 || Number.isInteger(value) ? Math.round(value) : +value.toFixed(size >= 10 ? 1 : 2),
  );
}

/** `3.4/s` */
export function rate(value) {
  return value === null || value === undefined ? '–' : `${short(value)}/s`;
}

/** `350 ms`, `4.2 s`, `3m 20s`, `2d 4h` */
export function span(ms) {
  if (ms === null || ms === undefined) return '–';
  const size = Math.abs(ms);
  if (size < 1) return size === 0 ? '0 ms' : `${trim(size)} ms`;
  if (size < 1000) return `${size < 10 ? trim(size) : Math.round(size)} ms`;
  if (size < 60_000) return `${trim(size / 1000)} s`;
  const at = UNITS.findIndex(([, length]) => size >= length);
  const [unit, length] = UNITS[at];
  const [less, part] = UNITS[at + 1] ?? [];
  const rest = part ? Math.floor((size % length) / part) : 0;
  return `${Math.floor(size / length)}${unit}${rest ? ` ${rest}${less}` : ''}`;
}

/** `in 5m`, `3 s ago`, `now` */
export function relative(at, now) {
  const away = at - now;
  if (Math.abs(away) < 1000) return 'now';
  const size = span(Math.floor(Math.abs(away) / 1000) * 1000);
  return away > 0 ? `in ${size}` : `${size} ago`;
}

/** `2026-11-26 07:03:47.145`, in the time zone of the browser. */
export function moment(at) {
  const date = new Date(at);
  if (Number.isNaN(date.getTime())) return String(at);
  const two = (value) => String(value).padStart(2, '0');
  const day = `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
  return `${day} ${clock(at)}.${String(date.getMilliseconds()).padStart(3, '0')}`;
}

/** `07:03:47`; `07:03` with `isCoarse`. */
export function clock(at, isCoarse = false) {
  const options = { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' };
  return new Date(at).toLocaleTimeString('en-GB', isCoarse ? options : { ...options, second: '2-digit' });
}

/** `12.3 MiB` */
export function bytes(value) {
  if (!value) return '–';
  for (const [unit, size] of [
    ['GiB', 2 ** 30],
    ['MiB', 2 ** 20],
    ['KiB', 2 ** 10],
  ]) {
    if (value >= size) return `${trim(value / size)} ${unit}`;
  }
  return `${value} B`;
}

/** `1 job`, `2 jobs` */
export function many(value, word) {
  return `${count(value)} ${word}${value === 1 ? '' : 's'}`;
}

/** A command line that a shell reads back as these words. */
export function shell(...words) {
  const quote = (word) => (/^[\w./:@%+=-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);
  return ['roundsman', ...words.map(String)].map(quote).join(' ');
}
