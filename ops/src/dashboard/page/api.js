// Calls of the API: JSend envelopes, and the token where one is needed.

import { askToken } from './dialogs.js';

const ROOT = 'api/v1';
const KEPT = 'roundsman-token';

/** A call that was not carried out, with the reason for people. */
export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

export const get = (path, query, options) => call('GET', path, { query, ...options });
export const post = (path) => call('POST', path, {});
export const remove = (path) => call('DELETE', path, {});

/** `/queues/mail/jobs/7`, from parts that may hold anything. */
export const path = (...parts) => `/${parts.map(encodeURIComponent).join('/')}`;

async function call(method, where, { query, signal, isExact }) {
  const response = await request(method, where, { query, signal });
  const text = await response.text();
  let envelope;
  try {
    envelope = JSON.parse(text, isExact ? exact : undefined);
  } catch {
    throw new Refused(response.status, `the answer is no JSON (${response.status})`);
  }
  if (response.ok && envelope.status === 'success') return envelope.data;
  throw new Refused(response.status, reason(envelope, response.status));
}

/** The response to a call, after a token was asked for where that is needed. */
export async function request(method, where, { query, signal } = {}) {
  for (;;) {
    const token = remembered();
    const headers = token ? { authorization: `Bearer ${token}` } : {};
    let response;
    try {
      response = await fetch(ROOT + where + search(query), { method, headers, signal, cache: 'no-store' });
    } catch (error) {
      if (signal?.aborted) throw error;
      throw new Refused(0, 'the server cannot be reached');
    }
    if (response.status !== 401) return response;
    // Another call may have asked meanwhile.
    if (remembered() === token) await signIn(token !== null);
  }
}

let asking = null;

function signIn(wasWrong) {
  asking ??= askToken(wasWrong).then((token) => {
    sessionStorage.setItem(KEPT, token);
    asking = null;
  });
  return asking;
}

function remembered() {
  return sessionStorage.getItem(KEPT);
}

function search(query) {
  const params = new URLSearchParams();
  for (const [name, value] of Object.entries(query ?? {})) {
    if (value !== undefined && value !== null && value !== '') params.set(name, value);
  }
  return params.size ? `?${params}` : '';
}

function reason(envelope, status) {
  if (envelope?.status === 'fail' && envelope.data) {
    return Object.entries(envelope.data)
      .map(([field, why]) => `${field}: ${why}`)
      .join('; ');
  }
  return envelope?.message ?? `the server answered ${status}`;
}

/** Keeps numbers that JavaScript would round as they were written. */
function exact(_key, value, context) {
  if (typeof value !== 'number' || !context?.source || !JSON.rawJSON) return value;
  return String(value) === context.source ? value : JSON.rawJSON(context.source);
}
