// The page: signing in, the rooms, and one room at a time.

import { Room } from './room.js';
import { Server } from './server.js';
import { Channels, LiveQueries } from './socket.js';
import { showMessages, showRooms, showTyping } from './view.js';

const ROOMS = 'chat:rooms';
const TELL_TYPING_MS = 2000;
const KEPT = 'chat-session';

const at = (selector) => document.querySelector(selector);
const { api_key: apiKey } = await (await fetch('/chat/key')).json();
const server = new Server(apiKey);
const rooms = new Map();
let me = null;
let channels = null;
let live = null;
let open = null;

// -- signing in --------------------------------------------------------------

at('#sign-in').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = new FormData(event.target);
  const problem = at('#sign-in .problem');
  problem.textContent = '';
  try {
    const auth_data = { username: form.get('username').trim() };
    const body = { auth_data, password: form.get('password') };
    const { user_id: id, access_token: token } = await server.call(`auth:${event.submitter.value}`, body);
    await enter({ id, token, name: auth_data.username });
  } catch (error) {
    problem.textContent = error.message;
  }
});

async function enter(session) {
  sessionStorage.setItem(KEPT, JSON.stringify(session));
  server.token = session.token;
  me = session.id;
  at('#me').textContent = session.name;
  await loadRooms();
  at('#welcome').hidden = true;
  at('#chat').hidden = false;
  live = new LiveQueries(apiKey, session.token);
  channels = new Channels(apiKey, { onReady: catchUp, onLost: () => say('Not connected. Trying again …') });
  channels.on(ROOMS, ({ room }) => add({ id: room._id, title: room.title }));
  rooms.forEach(listen);
  show();
}

// -- rooms -------------------------------------------------------------------

async function loadRooms() {
  const { rooms: found } = await server.ask('chat:rooms');
  found.forEach(add);
}

function add(known) {
  const room = rooms.get(known.id);
  if (room) {
    room.title = known.title;
    if (room !== open) room.unread = known.unread ?? room.unread;
  } else {
    rooms.set(known.id, new Room(server, me, known, show));
    listen(rooms.get(known.id));
  }
  show();
}

function listen(room) {
  channels?.on(room.id, (news) => room.hear(news));
}

async function choose(room) {
  open = room;
  at('#composer').hidden = false;
  show();
  if (!room.isLoaded) await room.open(live);
  at('#composer textarea').focus();
}

/** After every connecting: what the channels missed is asked for; live queries go on by themselves. */
async function catchUp() {
  try {
    await loadRooms();
    for (const room of rooms.values()) await room.catchUp();
    say('');
  } catch (error) {
    // When the network went again, the channels say when it is back.
    console.warn(error);
  }
}

at('#new-room').addEventListener('submit', async (event) => {
  event.preventDefault();
  const title = new FormData(event.target).get('title').trim();
  if (!title) return;
  const id = `room/${crypto.randomUUID?.() ?? Date.now()}`;
  await server.save({ _id: id, title });
  event.target.reset();
  add({ id, title });
  await choose(rooms.get(id));
});

// -- messages ----------------------------------------------------------------

const text = at('#composer textarea');
const file = at('#file');
let toldTyping = 0;

text.addEventListener('input', () => {
  const now = Date.now();
  if (!text.value.trim() || now - toldTyping < TELL_TYPING_MS) return;
  toldTyping = now;
  server.ask('chat:typing', { room: open.id }).catch(() => {});
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
at('#composer').addEventListener('submit', async (event) => {
  event.preventDefault();
  const said = text.value.trim();
  const [attached] = file.files;
  if (!said && !attached) return;
  text.value = '';
  file.value = '';
  file.dispatchEvent(new Event('change'));
  toldTyping = 0;
  const problem = at('#composer .problem');
  problem.textContent = '';
  try {
    await open.say(said, attached);
  } catch (error) {
    problem.textContent = error.message;
    text.value = said;
  }
});
document.addEventListener('visibilitychange', show);

// -- showing -----------------------------------------------------------------

function say(words) {
  at('#connection').textContent = words;
}

function show() {
  if (!me) return;
  if (open?.isLoaded && document.visibilityState === 'visible') open.markRead();
  showRooms(at('#rooms'), rooms.values(), open, choose);
  if (!open) return;
  at('#title').textContent = open.title;
  showMessages(at('#messages'), open, me);
  showTyping(at('#typing'), open);
}

const kept = sessionStorage.getItem(KEPT);
if (kept) await enter(JSON.parse(kept)).catch(() => sessionStorage.removeItem(KEPT));
document.body.dataset.ready = 'yes';
