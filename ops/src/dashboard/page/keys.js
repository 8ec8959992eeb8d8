// Single keys and pairs of them. They are not heeded in fields and dialogs, nor with modifiers, and can be turned off,
// for those who speak to their browser.

const KEPT = 'roundsman-keys';
/** Between the two keys of a pair. */
const PAIR = 1200;

/** `{"g o": [what it does, action]}`; a key without an action is the browser's own. */
export function keys(bindings) {
  let isOn = localStorage.getItem(KEPT) !== 'off';
  let first = '';
  let at = 0;
  document.addEventListener('keydown', (event) => {
    if (!isOn || event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (
      event.target.closest('input, textarea, select, dialog, [contenteditable]') &&
      !isCheckbox(event.target)
    )
      return;
    const pair = first && event.timeStamp - at < PAIR ? `${first} ${event.key}` : '';
    const action = bindings[pair]?.[1] ?? bindings[event.key]?.[1];
    first = pair ? '' : event.key;
    at = event.timeStamp;
    if (!action) return;
    event.preventDefault();
    action();
  });
  return {
    list: Object.entries(bindings).map(([key, [does]]) => [key, does]),
    isOn: () => isOn,
    turn: (value) => {
      isOn = value;
      localStorage.setItem(KEPT, value ? 'on' : 'off');
    },
  };
}

function isCheckbox(element) {
  return element.type === 'checkbox' && !element.closest('dialog');
}
