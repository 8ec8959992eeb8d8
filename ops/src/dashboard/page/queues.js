// All queues in one table.

import { path, post } from './api.js';
import { spark } from './chart.js';
import { commandLine, confirm, note } from './dialogs.js';
import { h } from './dom.js';
import { many, rate, shell, span } from './format.js';
import { live, point, recent } from './live.js';
import { amount, icon, link, loading, sortBy, sorted, state, table, toJobs, toQueue } from './parts.js';
import { line } from './series.js';

export function queues({ draw }) {
  const sorting = sortBy('Queue', false, draw);
  let part = '';

  const columns = [
    {
      head: 'Queue',
      isRowHead: true,
      sort: (row) => row.queue,
      cell: (row) => link(toQueue(row.queue), row.queue),
    },
    {
      head: 'State',
      sort: (row) => Number(row.paused),
      cell: (row) =>
        row.paused ? state('paused') : h('span', { class: 'state muted' }, icon('running'), 'open'),
    },
    { head: 'Waiting', kind: 'wide', cell: (row) => spark(line('queues', [row.queue], 'waiting')) },
    ...['ready', 'scheduled', 'running', 'dead'].map((word) => ({
      head: word[0].toUpperCase() + word.slice(1),
      kind: word === 'scheduled' ? 'num wide' : 'num',
      sort: (row) => row[word],
      cell: (row) =>
        row[word] ? link(toJobs({ queue: row.queue, state: word }), amount(row[word], word)) : amount(0),
    })),
    {
      head: 'Oldest',
      kind: 'num',
      sort: (row) => row.oldest_due_ms ?? -1,
      cell: (row) => span(row.oldest_due_ms),
    },
    { head: 'In', kind: 'num', sort: into, cell: (row) => rate(into(row)) },
    { head: 'Out', kind: 'num', sort: out, cell: (row) => rate(out(row)) },
    { head: 'Drained in', kind: 'num wide', cell: (row) => drained(row) },
    { head: 'Wait p99', kind: 'num wide', sort: wait, cell: (row) => span(wait(row)) },
    {
      head: 'Do',
      kind: 'do',
      headCell: h('span', { class: 'hidden' }, 'Actions'),
      cell: (row) => pauseButton(row, draw),
    },
  ];

  return {
    title: () => 'Queues',
    view: () => {
      const all = live.state?.queues;
      const rows =
        all &&
        sorted(
          all.filter((row) => row.queue.includes(part)),
          columns,
          sorting,
        );
      return [
        h(
          'div',
          { class: 'heading' },
          h('h1', {}, 'Queues'),
          h('input', {
            type: 'search',
            'data-search': true,
            placeholder: 'Part of a name',
            'aria-label': 'Part of a queue’s name',
            value: part,
            oninput: (event) => {
              part = event.target.value;
              draw();
            },
          }),
        ),
        !all
          ? loading()
          : table({
              label: 'Queues',
              rows,
              columns,
              sorting,
              key: (row) => row.queue,
              empty: all.length
                ? 'No queue has this in its name.'
                : [
                    h('p', {}, 'There is no queue yet: one exists as soon as it is named.'),
                    commandLine(shell('enqueue', 'default', '{"hello":"world"}')),
                  ],
            }),
      ];
    },
  };
}

const into = (row) => recent(row.queue, 'enqueued_per_s');
const out = (row) => recent(row.queue, 'ended_per_s');
const wait = (row) => point()?.queues?.[row.queue]?.wait_p99_ms;

/** How long what is due lasts at the present rates. */
function drained(row) {
  if (!row.ready) return '–';
  const gain = (out(row) ?? 0) - (into(row) ?? 0);
  return gain > 0 ? span((row.ready / gain) * 1000) : 'not yet';
}

/** Pause or resume, whichever can be. */
export function pauseButton(row, draw) {
  const verb = row.paused ? 'Resume' : 'Pause';
  const word = verb.toLowerCase();
  const ask = () =>
    confirm({
      title: `${verb} the queue ${row.queue}?`,
      text: row.paused
        ? `Its jobs may start again; ${many(row.ready, 'job')} ${row.ready === 1 ? 'is' : 'are'} due.`
        : `No further job of it starts, on any host; ${many(row.running, 'running job')} go${row.running === 1 ? 'es' : ''} on.`,
      verb,
      command: shell('queue', word, row.queue),
      run: async () => {
        const after = await post(path('queues', row.queue, word));
        const known = live.state?.queues.find((it) => it.queue === row.queue);
        if (known) known.paused = after.paused;
        return `The queue ${row.queue} is ${after.paused ? 'paused' : 'open'}`;
      },
    }).then(draw, (error) => note(error.message, true));
  return h(
    'button',
    { type: 'button', 'aria-label': `${verb} ${row.queue}`, onclick: ask },
    icon(row.paused ? 'running' : 'paused'),
    verb,
  );
}
