// What stands over the page: questions before something is changed, the token, the keys, and short notes of what
// happened.

import { h, patch } from './dom.js';
import { icon } from './parts.js';

const NOTE_FOR = 6000;

/** Shows a dialog made by `view(close)`; answers what it was closed with, `undefined` for Escape. */
function open(label, view) {
  return new Promise((done) => {
    const place = document.getElementById('dialogs');
    const dialog = document.createElement('dialog');
    dialog.setAttribute('aria-label', label);
    let answer;
    const close = (value) => {
      answer = value;
      dialog.close();
    };
    const draw = () => patch(dialog, view(close, draw));
    dialog.onclose = () => {
      dialog.remove();
      done(answer);
    };
    // A handler that answers `false` would forbid what the click does.
    dialog.onclick = (event) => {
      if (event.target === dialog) close();
    };
    draw();
    place.append(dialog);
    dialog.showModal();
    dialog.querySelector('[autofocus]')?.focus();
  });
}

/** The line that does the same in a shell, with a button that copies it. */
export function commandLine(command) {
  return h(
    'div',
    { class: 'command' },
    h('code', {}, command),
    h(
      'button',
      { type: 'button', class: 'quiet', title: 'Copy as CLI', onclick: () => copy(command) },
      icon('copy'),
      'Copy as CLI',
    ),
  );
}

/**
 * Asks, then does: `{title, text, verb, command, isGrave, run(progress)}`. `progress(done, of)` is drawn, and answers
 * whether to go on. Answers whether it was done.
 */
export async function confirm({ title, text, verb, command, isGrave, run }) {
  let state = { busy: false, done: 0, of: 0, error: '', goesOn: true };
  const answer = await open(title, (close, draw) => {
    const progress = (done, of) => {
      state = { ...state, done, of };
      draw();
      return state.goesOn;
    };
    const go = async () => {
      state = { ...state, busy: true, error: '' };
      draw();
      try {
        close({ said: await run(progress) });
      } catch (error) {
        state = { ...state, busy: false, error: error.message };
        draw();
      }
    };
    return [
      h('h2', {}, title),
      text && h('p', {}, text),
      command && commandLine(command),
      state.of > 1 &&
        h(
          'p',
          { class: 'progress' },
          h('progress', { max: state.of, value: state.done, 'aria-label': 'Progress' }),
          `${state.done} of ${state.of}`,
        ),
      state.error && h('p', { class: 'notice bad', role: 'alert' }, icon('warning'), state.error),
      h(
        'div',
        { class: 'choices' },
        h(
          'button',
          { type: 'button', onclick: () => (state.busy ? (state.goesOn = false) : close()) },
          state.busy ? 'Stop' : 'Leave it',
        ),
        h(
          'button',
          {
            type: 'button',
            class: isGrave ? 'grave' : 'main',
            disabled: state.busy,
            autofocus: true,
            onclick: go,
          },
          state.busy ? 'Working…' : verb,
        ),
      ),
    ];
  });
  if (answer?.said) note(answer.said);
  return answer !== undefined;
}

/** Asks for a token until one is given. */
export async function askToken(wasWrong) {
  for (;;) {
    let token = '';
    const given = await open('Sign in', (close) => [
      h('h2', {}, 'A token is needed'),
      h(
        'p',
        {},
        wasWrong ? 'The token is not known, or not any more. ' : '',
        'It is kept until this tab is closed.',
      ),
      h(
        'form',
        {
          onsubmit: (event) => {
            event.preventDefault();
            close(token);
          },
        },
        h(
          'label',
          {},
          'Token',
          h('input', {
            type: 'password',
            name: 'token',
            autocomplete: 'off',
            autofocus: true,
            oninput: (event) => {
              token = event.target.value.trim();
            },
          }),
        ),
        h('div', { class: 'choices' }, h('button', { class: 'main' }, 'Sign in')),
      ),
    ]);
    if (given) return given;
  }
}

/** Copies a command line, or shows it where the browser lets no page copy. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    note(`Copied: ${text}`);
  } catch {
    const select = (element) => element.isConnected && getSelection().selectAllChildren(element);
    await open('Copy', (close) => [
      h('h2', {}, 'Copy this line'),
      h('div', { class: 'command' }, h('code', { ref: (element) => setTimeout(select, 0, element) }, text)),
      h(
        'div',
        { class: 'choices' },
        h('button', { type: 'button', class: 'main', onclick: () => close() }, 'Close'),
      ),
    ]);
  }
}

let notes = [];

/** A short note of what happened, also for those who do not see it. */
export function note(text, isBad = false) {
  const mine = { text, isBad, key: `${Date.now()}-${Math.random()}` };
  notes = [...notes.slice(-2), mine];
  drawNotes();
  say(text);
  setTimeout(() => {
    notes = notes.filter((it) => it !== mine);
    drawNotes();
  }, NOTE_FOR);
}

function drawNotes() {
  patch(
    document.getElementById('toasts'),
    notes.map((it) =>
      h(
        'p',
        { key: it.key, class: it.isBad ? 'toast bad' : 'toast' },
        icon(it.isBad ? 'warning' : 'done'),
        h('span', {}, it.text),
      ),
    ),
  );
}

/** Tells a screen reader. */
export function say(text) {
  document.getElementById('said').textContent = text;
}

/** The keys, and the switch that turns them off. */
export function help(keys, isOn, turn) {
  return open('Keyboard', (close, draw) => [
    h('h2', {}, 'Keyboard'),
    h(
      'table',
      { class: 'keys' },
      h(
        'tbody',
        {},
        keys.map(([key, does]) =>
          h(
            'tr',
            {},
            h(
              'th',
              { scope: 'row' },
              key.split(' ').map((part) => [h('kbd', {}, part), ' ']),
            ),
            h('td', {}, does),
          ),
        ),
      ),
    ),
    h(
      'label',
      { class: 'check' },
      h('input', {
        type: 'checkbox',
        checked: isOn(),
        onchange: (event) => {
          turn(event.target.checked);
          draw();
        },
      }),
      'Keys are heeded',
    ),
    h(
      'div',
      { class: 'choices' },
      h('button', { type: 'button', class: 'main', autofocus: true, onclick: () => close() }, 'Close'),
    ),
  ]);
}
