// One list of jobs over all queues and states. The address holds what is looked for, so that it can be sent around.

import { h } from './dom.js';
import { jobTable } from './jobtable.js';
import { live } from './live.js';
import { toJobs } from './parts.js';
import { STATES } from './queue.js';

const FIELDS = ['id', 'queue', 'kind', 'error', 'state'];

export function jobs({ query, draw }) {
  let filter = read(query);
  const list = jobTable({ draw, where: () => filter });
  list.load();

  function seek(form) {
    const data = new FormData(form);
    location.hash = toJobs(
      Object.fromEntries(FIELDS.map((name) => [name, String(data.get(name) ?? '').trim()])),
    );
  }

  const field = (name, title, hint) =>
    h(
      'label',
      {},
      title,
      h('input', {
        name,
        type: 'search',
        value: filter[name],
        placeholder: hint,
        spellcheck: 'false',
        autocomplete: 'off',
        'data-search': name === 'id',
        ref: name === 'id' && query.has('focus') ? focusOnce : undefined,
      }),
    );
  let isFocused = false;
  const focusOnce = (element) => {
    if (!isFocused) requestAnimationFrame(() => element.focus());
    isFocused = true;
  };
  const choice = (name, title, words) =>
    h(
      'label',
      {},
      title,
      h(
        'select',
        { name, value: filter[name], onchange: (event) => seek(event.target.form) },
        ['', ...new Set([...words, filter[name]])]
          .filter((word, at) => at === 0 || word)
          .map((word) => h('option', { key: word, value: word }, word || 'any')),
      ),
    );

  return {
    title: () => 'Jobs',
    move: (to) => {
      filter = read(to.query);
      list.load();
      return true;
    },
    heed: list.heed,
    isHeld: list.isHeld,
    view: () => [
      h('div', { class: 'heading' }, h('h1', {}, 'Jobs')),
      h(
        'form',
        {
          class: 'filter',
          role: 'search',
          'aria-label': 'Jobs',
          onsubmit: (event) => {
            event.preventDefault();
            seek(event.target);
          },
        },
        field('id', 'Id', 'id or queue/id'),
        choice(
          'queue',
          'Queue',
          (live.state?.queues ?? []).map((queue) => queue.queue),
        ),
        choice('state', 'State', STATES),
        field('kind', 'Kind', 'the whole word'),
        field('error', 'Error', 'a part of it'),
        h('button', { class: 'main' }, 'Search'),
        FIELDS.some((name) => filter[name]) && h('a', { class: 'button', href: '#/jobs' }, 'Clear'),
      ),
      list.view(),
    ],
  };
}

function read(query) {
  return Object.fromEntries(FIELDS.map((name) => [name, query.get(name) ?? '']));
}
