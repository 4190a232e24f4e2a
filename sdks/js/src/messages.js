/** The events that a session reports to its owner: the server's messages, parsed. */

/** The server violated the protocol; the connection is of no use any more. */
export class ProtocolError extends Error {
  name = 'ProtocolError';
}

/** Readers of messages other than requests, by type; each returns an event. */
export const readers = new Map(
  Object.entries({
    request: null,
    cancel: (message) => ({ type: 'cancel', id: text(message, 'id'), reason: message.reason ?? '' }),
    reply: (message) => ({
      type: 'reply',
      id: text(message, 'id'),
      reply: { status: message.status ?? 500, body: message.body ?? null }
    }),
    registered: (message) => ({
      type: 'registered',
      isOk: message.ok === true,
      points: message.points ?? {},
      problems: message.problems ?? []
    }),
    ready: (message) => ({ type: 'state', state: message.state ?? '' }),
    drain: (message) => ({
      type: 'drain',
      reason: message.reason ?? '',
      reconnect: message.reconnect === true,
      workers: Number.isInteger(message.workers) ? message.workers : undefined
    }),
    drained: () => ({ type: 'drained' }),
    warning: (message) => ({ type: 'note', text: `the server warns: ${message.message}` })
  })
);

/** Reads a request of a session; an answer to it in any other session is useless. */
export function requestFromWire(message, session) {
  return {
    id: text(message, 'id'),
    kind: text(message, 'kind'),
    name: message.name ?? '',
    param: message.param ?? null,
    context: message.context ?? {},
    timeoutMs: message.timeout_ms ?? null,
    // This plugin's call that caused it.
    parent: message.parent ?? null,
    delivery: message.delivery == null ? null : deliveryFromWire(message.delivery),
    session
  };
}

function deliveryFromWire(wire) {
  return {
    id: String(wire.id),
    position: wire.position ?? 0,
    attempt: wire.attempt ?? 1,
    at: wire.at === undefined ? null : new Date(wire.at),
    catchingUp: wire.catching_up === true
  };
}

function text(message, member) {
  if (typeof message[member] === 'string') return message[member];
  throw new ProtocolError(`${message.type} without ${member}`);
}
