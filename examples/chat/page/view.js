// Renders the page from its state.

/** Creates an element: `make('p.note', 'text', child …)`. */
function make(what, ...children) {
  const [tag, ...classes] = what.split('.');
  const element = document.createElement(tag);
  element.classList.add(...classes);
  element.append(...children.filter((child) => child != null));
  return element;
}

function button(what, words, act) {
  const element = make(what, words);
  element.type = 'button';
  element.addEventListener('click', act);
  return element;
}

/**
 * Puts items in place, each `{ key, version, build }`. An item whose version is unchanged stays, so
 * that only new ones are built and read out, and the focus stays where it is.
 */
function arrange(list, items) {
  const keys = new Set(items.map(({ key }) => key));
  for (const child of [...list.children]) if (!keys.has(child.dataset.key)) child.remove();
  const shown = new Map([...list.children].map((child) => [child.dataset.key, child]));
  let place = list.firstElementChild;
  for (const { key, version, build } of items) {
    const known = shown.get(key);
    if (known?.dataset.version === version) {
      if (known === place) place = place.nextElementSibling;
      else list.insertBefore(known, place);
    } else {
      const element = build();
      Object.assign(element.dataset, { key, version });
      if (known === place) place = place?.nextElementSibling ?? null;
      known?.remove();
      list.insertBefore(element, place);
    }
  }
}

export function showRooms(list, rooms, open, choose) {
  arrange(list, rooms.map((room) => {
    const unread = room === open ? 0 : room.unread;
    const build = () => {
      const badge = unread ? make('span.badge', String(unread)) : null;
      badge?.setAttribute('aria-label', `${unread} unread`);
      const element = button('button', make('span', room.title), () => choose(room));
      if (badge) element.append(badge);
      if (room === open) element.setAttribute('aria-current', 'true');
      return make('li', element);
    };
    return { key: room.id, version: JSON.stringify([room.title, unread, room === open]), build };
  }));
}

/** Shows a room's messages; `older` is called when somebody asks for the earlier ones. */
export function showMessages(list, room, me, older) {
  stayAtEnd(list);
  const messages = room.list();
  const items = messages.map((message, at) => item(room, messages, at, me));
  for (const entry of room.outbox.entries.values()) items.push(waiting(room, entry));
  if (room.hasOlder) {
    const build = () => make('li.older', button('button.quiet', 'Earlier messages', older));
    items.unshift({ key: 'older', version: room.id, build });
  }
  arrange(list, items);
  if (list.dataset.room !== room.id) atEnd.add(list);
  list.dataset.room = room.id;
  if (atEnd.has(list)) list.scrollTop = list.scrollHeight;
}

/** Lists that are scrolled to their end. */
const atEnd = new WeakSet();
const watched = new WeakSet();

/** Keeps a list at its end when a picture has loaded or the window has changed its size. */
function stayAtEnd(list) {
  if (watched.has(list)) return;
  watched.add(list);
  const follow = () => { if (atEnd.has(list)) list.scrollTop = list.scrollHeight; };
  let before = 0;
  list.addEventListener('scroll', () => {
    const isAtEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 60;
    // This event also arrives late, after a change of size: only scrolling up means leaving the end.
    if (isAtEnd) atEnd.add(list);
    else if (list.scrollTop < before) atEnd.delete(list);
    before = list.scrollTop;
  });
  list.addEventListener('load', follow, true);
  new ResizeObserver(follow).observe(list);
}

function item(room, messages, at, me) {
  const message = messages[at];
  const before = messages[at - 1];
  const isMine = message._ownerID === me;
  const isFirst = before?._ownerID !== message._ownerID || message.at - before.at > 5 * 60_000_000;
  const readers = isMine && at === messages.length - 1 ? room.readersOf(message) : [];
  const build = () => {
    const author = message.author ?? 'somebody';
    const face = make('span.face', author.slice(0, 1).toUpperCase());
    face.style.setProperty('--hue', String([...author].reduce((sum, it) => sum * 31 + it.codePointAt(0), 7) % 360));
    face.setAttribute('aria-hidden', 'true');
    const time = make('time', clock(message._created_at));
    time.dateTime = message._created_at;
    const element = make('li.message', face, make('p.byline', make('b', author), ' ', time), bubble(message));
    if (readers.length) element.append(make('p.note', `Read by ${readers.join(', ')}`));
    element.classList.toggle('mine', isMine);
    element.classList.toggle('first', isFirst);
    return element;
  };
  return { key: message._id, version: JSON.stringify([message._updated_at, isFirst, readers]), build };
}

function bubble({ text, attachment }) {
  const words = make('span', text ?? '');
  if (!attachment) return make('div.bubble', words);
  // The server puts a unique prefix in front of the name.
  const name = attachment.$name.replace(/^[0-9a-f-]{36}-/, '');
  const address = webAddress(attachment.$url);
  if (address && attachment.$content_type?.startsWith('image/')) {
    const image = make('img');
    image.src = address;
    image.alt = name;
    return make('div.bubble', image, words);
  }
  const link = make('a', name);
  if (address) link.href = address;
  link.download = name;
  return make('div.bubble', words, text ? make('br') : null, link);
}

/** Returns an address if it is http(s): others, such as `javascript:`, must not be followed. */
function webAddress(text) {
  try {
    const url = new URL(text, location.href);
    return ['http:', 'https:'].includes(url.protocol) ? url.href : null;
  } catch {
    return null;
  }
}

function waiting(room, entry) {
  const { id, text, file, problem, isRefused } = entry;
  const build = () => {
    const words = [text, file?.name].filter(Boolean).join('\n');
    const element = make('li.message.mine.first', make('div.bubble', words));
    element.classList.add(isRefused ? 'refused' : 'waiting');
    element.append(make('p.note', isRefused ? `Not sent: ${problem}` : `Sending … ${problem}`));
    if (isRefused) {
      const again = button('button.quiet', 'Send again', () => room.outbox.add(entry));
      const remove = button('button.quiet', 'Remove', () => room.outbox.remove(id));
      element.append(make('p.note', again, remove));
    }
    return element;
  };
  return { key: id, version: JSON.stringify([problem, isRefused]), build };
}

export function showTyping(line, room) {
  const names = [...room.typing.values()].map(({ name }) => name);
  const verb = names.length > 1 ? 'are' : 'is';
  line.textContent = names.length ? `${names.join(' and ')} ${verb} typing …` : '';
}

function clock(iso) {
  return new Date(iso).toLocaleTimeString([], { hour: '2-digit', minute: '2-digit' });
}
