// A page is described whole each time, and only what differs from before is changed: nothing flickers, and the
// focus, the scroll and a half-typed word stay. Text becomes text nodes, so that no data is ever markup.

const SVG = 'http://www.w3.org/2000/svg';
const LAST = Symbol('what the element was made of');
const AS_PROPERTY = new Set(['value', 'checked', 'disabled', 'hidden', 'open', 'indeterminate']);

/**
 * An element. Of its properties, `key` tells it from its siblings, `ref` is called with it after each change, and
 * `own` leaves its children alone. What is null or false among the children is left out.
 */
export function h(tag, props, ...kids) {
  return { tag, props: props ?? {}, kids: flat(kids, []) };
}

function flat(kids, out) {
  for (const kid of kids) {
    if (kid === null || kid === undefined || kid === false || kid === true || kid === '') continue;
    if (Array.isArray(kid)) flat(kid, out);
    else out.push(typeof kid === 'object' ? kid : String(kid));
  }
  return out;
}

/** Makes the children of an element what `kids` says. */
export function patch(parent, kids, isSvg = false) {
  kids = flat([kids], []);
  const keyed = new Map();
  const rest = [];
  const wanted = new Set(kids.map((kid) => kid.props?.key).filter((key) => key !== undefined));
  for (const node of [...parent.childNodes]) {
    const key = node[LAST]?.props.key;
    if (key === undefined) rest.push(node);
    else if (wanted.has(key)) keyed.set(key, node);
    else node.remove();
  }
  let at = 0;
  for (const kid of kids) {
    let node = kid.props?.key === undefined ? rest.shift() : keyed.get(kid.props.key);
    if (node && !fits(node, kid)) {
      node.remove();
      node = undefined;
    }
    if (!node) node = create(kid, isSvg);
    else if (typeof kid === 'string') {
      if (node.data !== kid) node.data = kid;
    } else update(node, kid, isSvg);
    if (parent.childNodes[at] !== node) parent.insertBefore(node, parent.childNodes[at] ?? null);
    at += 1;
  }
  for (const node of rest) node.remove();
}

function fits(node, kid) {
  return typeof kid === 'string' ? node.nodeType === Node.TEXT_NODE : node[LAST]?.tag === kid.tag;
}

function create(kid, isSvg) {
  if (typeof kid === 'string') return document.createTextNode(kid);
  const svg = isSvg || kid.tag === 'svg';
  const element = svg ? document.createElementNS(SVG, kid.tag) : document.createElement(kid.tag);
  element[LAST] = { tag: kid.tag, props: {} };
  update(element, kid, svg);
  return element;
}

function update(element, kid, isSvg) {
  const svg = isSvg || kid.tag === 'svg';
  const before = element[LAST].props;
  if (!kid.props.own) patch(element, kid.kids, svg);
  for (const name in before) if (!(name in kid.props)) set(element, name, undefined);
  for (const name in kid.props) if (before[name] !== kid.props[name]) set(element, name, kid.props[name]);
  element[LAST] = { tag: kid.tag, props: kid.props };
  kid.props.ref?.(element);
}

function set(element, name, value) {
  if (name === 'key' || name === 'ref' || name === 'own') return;
  if (name.startsWith('on')) element[name] = value ?? null;
  else if (AS_PROPERTY.has(name)) element[name] = value ?? (name === 'value' ? '' : false);
  else if (value === undefined || value === null || value === false) element.removeAttribute(name);
  else element.setAttribute(name, value === true ? '' : value);
}
