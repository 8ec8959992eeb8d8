// Lines over time as SVG: drawn with the colours of the theme, told in one sentence, and there as a table too.

import { h, patch } from './dom.js';
import { clock } from './format.js';

const HEIGHT = 148;
const LEFT = 46;
const RIGHT = 8;
const TOP = 8;
const BOTTOM = 20;
const ROWS = 30;

const widths = new ResizeObserver((entries) => {
  for (const { target, contentRect } of entries) target.chart?.resize(contentRect.width);
});

/** `{title, t, lines: [{name, kind, values}], unit}`; `kind` is `area`, `line`, `dashed` or `step`. */
export function chart(spec) {
  return h('figure', {
    key: spec.title,
    class: 'chart',
    own: true,
    'data-hold': true,
    ref: (element) => {
      if (!element.chart) {
        element.chart = new Chart(element);
        widths.observe(element);
      }
      element.chart.show(spec);
    },
  });
}

class Chart {
  #element;
  #spec = null;
  #width = 0;
  #at = null;
  #isOpen = false;

  constructor(element) {
    this.#element = element;
  }

  show(spec) {
    this.#spec = spec;
    this.#draw();
  }

  resize(width) {
    if (Math.round(width) === this.#width) return;
    this.#width = Math.round(width);
    this.#draw();
  }

  #draw() {
    if (!this.#spec || !this.#width) return;
    patch(this.#element, this.#view());
  }

  #point(event) {
    const { t } = this.#spec;
    const box = event.currentTarget.getBoundingClientRect();
    const part = (event.clientX - box.left - LEFT) / (this.#width - LEFT - RIGHT);
    this.#at = t.length ? Math.max(0, Math.min(t.length - 1, Math.round(part * (t.length - 1)))) : null;
    this.#draw();
  }

  #view() {
    const { title, t, lines, unit } = this.#spec;
    const at = this.#at !== null && this.#at < t.length ? this.#at : null;
    const shown = ({ values }) => unit(at === null ? last(values) : values[at]);
    return [
      h(
        'figcaption',
        {},
        h('span', { class: 'title' }, title),
        at !== null && h('span', { class: 'muted' }, clock(t[at])),
        h(
          'span',
          { class: 'legend' },
          lines.map((line, i) =>
            h(
              'span',
              { class: `series series-${i} ${line.kind}` },
              h('i', { 'aria-hidden': 'true' }),
              line.name,
              h('b', {}, shown(line)),
            ),
          ),
        ),
      ),
      h(
        'svg',
        {
          viewBox: `0 0 ${this.#width} ${HEIGHT}`,
          width: this.#width,
          height: HEIGHT,
          role: 'img',
          'aria-label': summary(this.#spec),
          onpointermove: (event) => this.#point(event),
          onpointerleave: () => {
            this.#at = null;
            this.#draw();
          },
        },
        t.length < 2
          ? h(
              'text',
              { class: 'none', x: this.#width / 2, y: HEIGHT / 2, 'text-anchor': 'middle' },
              'Nothing is known yet',
            )
          : this.#plot(at),
      ),
      h(
        'details',
        {
          open: this.#isOpen,
          ontoggle: (event) => {
            this.#isOpen = event.target.open;
            this.#draw();
          },
        },
        h('summary', {}, 'Figures', h('span', { class: 'hidden' }, ` of ${title}`)),
        this.#isOpen && figures(this.#spec),
      ),
    ];
  }

  #plot(at) {
    const { t, lines, unit } = this.#spec;
    const known = lines.flatMap(({ values }) => values).filter((value) => value !== null);
    const top = ceiling(known.reduce((a, b) => Math.max(a, b), 0));
    const x = (i) => LEFT + (i / (t.length - 1)) * (this.#width - LEFT - RIGHT);
    const y = (value) => TOP + (1 - value / top) * (HEIGHT - TOP - BOTTOM);
    const steps = top === 1 ? [0, 1] : [0, top / 2, top];
    const marks = Math.max(2, Math.min(6, Math.floor(this.#width / 110)));
    const times = Array.from({ length: marks }, (_, i) => Math.round((i / (marks - 1)) * (t.length - 1)));
    const isCoarse = t.at(-1) - t[0] > 1_200_000;
    return [
      steps.map((value) =>
        h(
          'g',
          { class: 'grid' },
          h('line', { x1: LEFT, x2: this.#width - RIGHT, y1: y(value), y2: y(value) }),
          h('text', { x: LEFT - 6, y: y(value) + 3.5, 'text-anchor': 'end' }, unit(value)),
        ),
      ),
      times.map((i, n) =>
        h(
          'text',
          {
            class: 'when',
            x: x(i),
            y: HEIGHT - 5,
            'text-anchor': n === 0 ? 'start' : n === marks - 1 ? 'end' : 'middle',
          },
          clock(t[i], isCoarse),
        ),
      ),
      lines.map((line, i) => [
        line.kind === 'area' && h('path', { class: `fill series-${i}`, d: trace(line, x, y, y(0)) }),
        h('path', { class: `stroke series-${i} ${line.kind}`, d: trace(line, x, y, null) }),
      ]),
      at !== null && h('line', { class: 'cursor', x1: x(at), x2: x(at), y1: TOP, y2: HEIGHT - BOTTOM }),
      at !== null &&
        lines.map(
          (line, i) =>
            line.values[at] !== null &&
            h('circle', { class: `dot series-${i}`, cx: x(at), cy: y(line.values[at]), r: 3 }),
        ),
    ];
  }
}

/** The path of a line, broken where nothing is known; closed down to `floor` for an area. */
function trace({ values, kind }, x, y, floor) {
  let path = '';
  let start = null;
  let before = null;
  const close = (i) => {
    // A value between two gaps is a dot.
    if (start !== null && start === i && floor === null) path += 'h.01';
    if (start !== null && floor !== null)
      path += `L${x(i).toFixed(1)} ${floor}L${x(start).toFixed(1)} ${floor}Z`;
    start = null;
  };
  values.forEach((value, i) => {
    if (value === null || value === undefined) {
      if (i > 0) close(i - 1);
      before = null;
      return;
    }
    const [left, top] = [x(i).toFixed(1), y(value).toFixed(1)];
    if (start === null) path += `M${left} ${top}`;
    else if (kind === 'step' && before !== null) path += `H${left}V${top}`;
    else path += `L${left} ${top}`;
    start ??= i;
    before = value;
  });
  close(values.length - 1);
  return path;
}

/** The next round number: an axis ends there. */
function ceiling(value) {
  if (value <= 1) return value > 0.5 || value === 0 ? 1 : ceiling(value * 1000) / 1000;
  const size = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 4, 6, 8, 10].map((n) => n * size).find((n) => n >= value);
}

function last(values) {
  return values.findLast((value) => value !== null && value !== undefined) ?? null;
}

function summary({ title, t, lines, unit }) {
  if (t.length < 2) return `${title}: nothing is known yet`;
  const each = lines.map(({ name, values }) => {
    const known = values.filter((value) => value !== null);
    return known.length
      ? `${name} now ${unit(last(values))}, at most ${unit(known.reduce((a, b) => Math.max(a, b)))}`
      : `${name} unknown`;
  });
  return `${title} from ${clock(t[0])} to ${clock(t.at(-1))}: ${each.join('; ')}`;
}

function figures({ title, t, lines, unit }) {
  const step = Math.max(1, Math.ceil(t.length / ROWS));
  const rows = [];
  for (let i = t.length - 1; i >= 0; i -= step) rows.push(i);
  return h(
    'div',
    { class: 'scroll', tabindex: '0', role: 'region', 'aria-label': `Figures of ${title}` },
    h(
      'table',
      {},
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('th', { scope: 'col' }, 'Time'),
          lines.map(({ name }) => h('th', { scope: 'col', class: 'num' }, name)),
        ),
      ),
      h(
        'tbody',
        {},
        rows.map((i) =>
          h(
            'tr',
            { key: t[i] },
            h('th', { scope: 'row' }, clock(t[i])),
            lines.map(({ values }) => h('td', { class: 'num' }, unit(values[i]))),
          ),
        ),
      ),
    ),
  );
}

/** A line in a word's height; what it shows stands beside it in numbers. */
export function spark(values) {
  const [width, height] = [96, 22];
  const most = values.reduce((a, b) => Math.max(a, b ?? 0), 0) || 1;
  const x = (i) => (values.length > 1 ? (i / (values.length - 1)) * width : 0);
  const y = (value) => height - 2 - (value / most) * (height - 4);
  return h(
    'svg',
    { class: 'spark', viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: 'none', 'aria-hidden': 'true' },
    h('path', { class: 'fill series-0', d: trace({ values, kind: 'area' }, x, y, height) }),
    h('path', { class: 'stroke series-0', d: trace({ values, kind: 'line' }, x, y, null) }),
  );
}
