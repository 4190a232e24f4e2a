// What is known becomes what is seen.

/** Makes an element: `make('p.note', 'text', child …)`. */
function make(what, ...children) {
  const [tag, ...classes] = what.split('.');
  const element = document.createElement(tag);
  element.classList.add(...classes);
  element.append(...children.filter((child) => child != null));
  return element;
}

export function showRooms(list, rooms, open, choose) {
  rooms = [...rooms];
  // What looks the same stays, and so does the focus.
  const state = JSON.stringify(rooms.map((room) => [room.title, room.unread, room === open]));
  if (list.dataset.state === state) return;
  list.dataset.state = state;
  const item = (room) => {
    const badge = room.unread && room !== open ? make('span.badge', String(room.unread)) : null;
    if (badge) badge.setAttribute('aria-label', `${room.unread} unread`);
    const button = make('button', make('span', room.title), badge);
    button.type = 'button';
    if (room === open) button.setAttribute('aria-current', 'true');
    button.addEventListener('click', () => choose(room));
    return make('li', button);
  };
  list.replaceChildren(...rooms.map(item));
}

export function showMessages(list, room, me) {
  stayAtEnd(list);
  const messages = room.list();
  const items = messages.map((message, at) => item(room, messages, at, me));
  for (const entry of room.outbox.values()) items.push(waiting(entry));
  if (room.hasOlder) {
    const older = make('button.quiet', 'Earlier messages');
    older.type = 'button';
    older.addEventListener('click', () => room.loadOlder());
    items.unshift(make('li.older', older));
  }
  reuse(list, items);
  if (list.dataset.room !== room.id) atEnd.add(list);
  list.dataset.room = room.id;
  if (atEnd.has(list)) list.scrollTop = list.scrollHeight;
}

/** Lists whose end is looked at. */
const atEnd = new WeakSet();
const watched = new WeakSet();

/** Who looks at the end sees it also when a picture has come, or the window has another size. */
function stayAtEnd(list) {
  if (watched.has(list)) return;
  watched.add(list);
  const follow = () => { if (atEnd.has(list)) list.scrollTop = list.scrollHeight; };
  let before = 0;
  list.addEventListener('scroll', () => {
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    // Also told of late, when there is more to see or less room: only who went up has left the end.
    if (isAtEnd) atEnd.add(list);
    else if (list.scrollTop < before) atEnd.delete(list);
    before = list.scrollTop;
  });
  list.addEventListener('load', follow, true);
  new ResizeObserver(follow).observe(list);
}

/** Puts the items in place; those that look the same stay, so that only news are read out. */
function reuse(list, items) {
  const known = new Map([...list.children].map((child) => [child.outerHTML, child]));
  list.replaceChildren(...items.map((it) => {
    const same = it.id && known.get(it.outerHTML);
    return same || it;
  }));
}

function item(room, messages, at, me) {
  const message = messages[at];
  const before = messages[at - 1];
  const isMine = message._ownerID === me;
  const isFirst = before?._ownerID !== message._ownerID
    || Date.parse(message._created_at) - Date.parse(before._created_at) > 5 * 60_000;
  const author = message.author ?? 'somebody';
  const face = make('span.face', author.slice(0, 1).toUpperCase());
  face.style.setProperty('--hue', String([...author].reduce((sum, it) => sum * 31 + it.codePointAt(0), 7) % 360));
  face.setAttribute('aria-hidden', 'true');
  const time = make('time', clock(message._created_at));
  time.dateTime = message._created_at;
  const element = make('li.message', face, make('p.byline', make('b', author), ' ', time), bubble(message));
  const readers = isMine && at === messages.length - 1 ? room.readersOf(message) : [];
  if (readers.length) element.append(make('p.note', `Read by ${readers.join(', ')}`));
  element.id = message._id;
  element.classList.toggle('mine', isMine);
  element.classList.toggle('first', isFirst);
  return element;
}

function bubble({ text, attachment }) {
  const words = make('span', text ?? '');
  if (!attachment) return make('div.bubble', words);
  const name = decodeURIComponent(attachment.$name).replace(/^[0-9a-f-]{36}-/, '');
  if (attachment.$content_type?.startsWith('image/')) {
    const image = make('img');
    image.src = attachment.$url;
    image.alt = name;
    return make('div.bubble', image, words);
  }
  const link = make('a', name);
  link.href = attachment.$url;
  link.download = name;
  return make('div.bubble', words, text ? make('br') : null, link);
}

function waiting({ id, text, file }) {
  const words = [text, file?.name].filter(Boolean).join('\n');
  const element = make('li.message.mine.waiting.first', make('div.bubble', words), make('p.note', 'Sending …'));
  element.id = id;
  return element;
}

export function showTyping(line, room) {
  const names = [...room.typing.values()].map(({ name }) => name);
  const verb = names.length > 1 ? 'are' : 'is';
  line.textContent = names.length ? `${names.join(' and ')} ${verb} typing …` : '';
}

function clock(iso) {
  return new Date(iso).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}
