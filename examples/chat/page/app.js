// The page: signing in and out, the rooms, and one room at a time.

import { LiveClient } from './live/index.js';
import { Room } from './room.js';
import { Server, field, instant, newId } from './server.js';
import { Channels } from './socket.js';
import { Unread } from './unread.js';
import { showMessages, showRooms, showTyping } from './view.js';

const TELL_TYPING_MS = 2000;
const KEPT = 'chat-session';

const at = (selector) => document.querySelector(selector);
const { api_key: apiKey } = await (await fetch('/chat/key')).json();
const server = new Server(apiKey, end);
const unread = new Unread(server, (id, count) => {
  if (!rooms.has(id)) return;
  rooms.get(id).unread = count;
  show();
});
/** Rooms by id. */
const rooms = new Map();
/** The time up to which each room was read, by id. */
const readings = new Map();
let me = null;
let channels = null;
let live = null;
let open = null;

// -- signing in and out --------------------------------------------------------

at('#sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const problem = at('#sign-in .problem');
  problem.textContent = '';
  try {
    const auth_data = { username: form.get('username').trim() };
    const body = { auth_data, password: form.get('password') };
    const { user_id: id, access_token: token } = await server.call(`auth:${form.get('action')}`, body);
    enter({ id, token, name: auth_data.username });
  } catch (error) {
    problem.textContent = error.message;
  }
});

function enter(session) {
  sessionStorage.setItem(KEPT, JSON.stringify(session));
  server.token = session.token;
  me = session.id;
  at('#me').textContent = session.name;
  at('#welcome').hidden = true;
  at('#chat').hidden = false;
  at('#title').focus();
  live = new LiveClient({ apiKey, accessToken: session.token, onSessionOver: end });
  live.subscribe(connected);
  channels = new Channels(apiKey, connected);
  const all = live.query({ record_type: 'room' });
  all.onChange(({ entered, changed, left }) => {
    for (const { _id: id } of left) rooms.delete(id);
    [...entered, ...changed].forEach(add);
    show();
  });
  all.subscribe(({ error }) => { if (error) at('#new-room .problem').textContent = error.message; });
  // Includes what is read in another tab, or on another device.
  const mine = live.query({ record_type: 'reading', predicate: ['eq', field('_owner_id'), me] });
  mine.onChange(({ entered, changed }) => [...entered, ...changed].forEach(noteReading));
}

at('#sign-out').addEventListener('click', async () => {
  sessionStorage.removeItem(KEPT);
  // If the server cannot be told, the session is forgotten at least here.
  await server.call('auth:logout').catch(console.warn);
  location.reload();
});

/** Handles the end of the session. What was written stays visible. */
function end(refusal) {
  sessionStorage.removeItem(KEPT);
  live?.close();
  channels?.end();
  at('#connection').textContent = '';
  at('#ended').hidden = false;
  at('#ended span').textContent = `Your session has ended: ${refusal.message}`;
}

at('#ended button').addEventListener('click', () => location.reload());

// -- rooms ---------------------------------------------------------------------

function add(record) {
  const known = rooms.get(record._id);
  if (known) {
    known.update(record);
  } else {
    const room = new Room(server, me, record, show);
    room.readUntil = readings.get(room.id) ?? 0;
    rooms.set(room.id, room);
    channels.on(room.id, (hint) => hear(room, hint));
    unread.look([room.id]);
  }
  show();
}

/** Handles a hint, which anybody can publish: live queries bring messages, the plugin counts them. */
function hear(room, { event, user }) {
  if (event === 'sent' && room !== open) unread.look([room.id]);
  if (event === 'typing') room.hearTyping(user);
}

function noteReading({ room: { $id: id }, until }) {
  readings.set(id, instant(until.$date));
  if (!rooms.has(id)) return;
  rooms.get(id).readUntil = readings.get(id);
  unread.look([id]);
}

function choose(room) {
  open?.leave();
  open = room;
  at('#composer').hidden = false;
  room.enter(live).catch((error) => { at('#composer .problem').textContent = error.message; });
  at('#composer .problem').textContent = '';
  at('#composer textarea').focus();
  show();
}

at('#new-room').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.target;
  const problem = form.querySelector('.problem');
  const title = new FormData(form).get('title').trim();
  if (!title) return;
  problem.textContent = '';
  try {
    const record = await server.save({ _id: newId('room'), title });
    form.reset();
    add(record);
    choose(rooms.get(record._id));
  } catch (error) {
    problem.textContent = error.message;
  }
});

// -- messages ------------------------------------------------------------------

const text = at('#composer textarea');
const file = at('#file');
let toldTyping = 0;

text.addEventListener('input', () => {
  const now = Date.now();
  if (!text.value.trim() || now - toldTyping < TELL_TYPING_MS) return;
  toldTyping = now;
  channels.publish(open.id, { event: 'typing', user: me });
});
text.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  at('#composer').requestSubmit();
});
file.addEventListener('change', () => {
  at('#chosen').hidden = !file.files.length;
  at('#chosen span').textContent = file.files[0]?.name ?? '';
});
at('#chosen button').addEventListener('click', () => {
  file.value = '';
  file.dispatchEvent(new Event('change'));
});
at('#composer').addEventListener('submit', (event) => {
  event.preventDefault();
  const said = text.value.trim();
  const [attached] = file.files;
  if (!said && !attached) return;
  text.value = '';
  file.value = '';
  file.dispatchEvent(new Event('change'));
  toldTyping = 0;
  open.say(said, attached);
});

async function older() {
  try {
    await open.loadOlder();
  } catch (error) {
    at('#composer .problem').textContent = error.message;
  }
}

// -- showing -------------------------------------------------------------------

/** Handles that a socket is lost or back. */
function connected() {
  const isConnected = live?.state === 'live' && channels?.isReady;
  at('#connection').textContent = isConnected ? '' : 'Not connected. Trying again …';
  // Waiting messages are sent at once, and what the channels missed is asked for.
  if (!channels?.isReady) return;
  server.wake();
  unread.look(rooms.keys());
}

let isAwaited = false;

/** Renders at most once per repaint of the screen, however much has changed. */
function show() {
  if (isAwaited) return;
  isAwaited = true;
  requestAnimationFrame(() => {
    isAwaited = false;
    paint();
  });
}

function paint() {
  showRooms(at('#rooms'), [...rooms.values()].sort((a, b) => a.createdAt - b.createdAt), open, choose);
  if (!open) return;
  if (document.visibilityState === 'visible') open.markRead();
  at('#title').textContent = open.title;
  showMessages(at('#messages'), open, me, older);
  showTyping(at('#typing'), open);
}

document.addEventListener('visibilitychange', show);

const kept = sessionStorage.getItem(KEPT);
if (kept) enter(JSON.parse(kept));
document.body.dataset.ready = 'yes';
