/** One WebSocket to the server, from its opening to its end. */

import WebSocket from 'ws';

import { retryAfterMs } from './backoff.js';
import { SUBPROTOCOL } from './session.js';

const HANDSHAKE_MS = 10_000;
/** How long the server may take to confirm a close. */
const CLOSE_MS = 2000;
/** How much of a rejection's body is read for the log. */
const MAX_REFUSAL = 4096;

/** Returns the address that plugins connect to. */
export function pluginUrl(endpoint) {
  return `${endpoint.replace(/^http/, 'ws').replace(/\/+$/, '')}/_/plugin`;
}

/** Returns the address that plugins connect to, without a password that it may contain. */
export function shownUrl(endpoint) {
  const url = new URL(pluginUrl(endpoint));
  return `${url.protocol}//${url.host}${url.pathname}`;
}

/**
 * Opens a socket. `handlers` are `onOpen()`, `onText(text)`, and `onEnd(ending)`. `onEnd` is called
 * once: with a `closeCode` and `reason`, the HTTP `status` of a rejection, or what went wrong.
 */
export function openSocket({ endpoint, masterKey, maxMessage }, handlers) {
  const socket = new WebSocket(pluginUrl(endpoint), [SUBPROTOCOL], {
    headers: { 'X-Skygear-API-Key': masterKey },
    handshakeTimeout: HANDSHAKE_MS,
    maxPayload: maxMessage,
    perMessageDeflate: false
  });
  const ending = {};
  socket.on('open', () => handlers.onOpen());
  socket.on('message', (data, isBinary) => {
    if (isBinary) close(4002, 'a binary frame');
    else handlers.onText(data.toString('utf8'));
  });
  socket.on('unexpected-response', (_, response) => {
    ending.status = response.statusCode;
    ending.retryAfterMs = retryAfterMs(response.headers['retry-after']);
    let body = '';
    response.setEncoding('utf8');
    response.on('data', (part) => (body = (body + part).slice(0, MAX_REFUSAL)));
    response.on('close', () => {
      ending.reason = `status ${ending.status}: ${body}`;
      socket.terminate();
    });
  });
  socket.on('error', (error) => (ending.reason ??= error.message || error.code));
  socket.on('close', (code, reason) => {
    // 1005 and 1006 stand for a close frame without a code, and for no close frame.
    if (code !== 1005 && code !== 1006) ending.closeCode = code;
    const said = reason.toString('utf8');
    handlers.onEnd({ ...ending, reason: said || ending.reason || `closed with ${code}` });
  });
  function close(code, reason) {
    socket.close(code, reason.slice(0, 120));
    setTimeout(() => socket.terminate(), CLOSE_MS).unref();
  }
  return {
    send: (text) => socket.send(text),
    close,
    terminate: () => socket.terminate()
  };
}
