/** The extension points of a plugin: the answer to `init`, and the functions behind it. */

const METHODS = ['GET', 'POST', 'PUT'];
const CATCH_UP = ['all', 'latest', 'none'];

/** Everything that was registered, by name. */
export class Points {
  ops = new Map();
  /** By name and method. */
  handlers = new Map();
  hooks = new Map();
  timers = new Map();
  providers = new Map();
  /** Several functions can listen to the same event. */
  events = new Map();
  /** Folders of static assets. */
  assets = new Map();
  #before = null;
  #isStarting = false;
  #lists = { op: [], handler: [], hook: [], timer: [], provider: [] };

  /** Returns what is sent to the server: every list, including those without points. */
  registration() {
    const event = [...this.events.keys()].map((name) => ({ name }));
    return { ...this.#lists, event };
  }

  /** Whether nothing was registered. */
  get isEmpty() {
    return Object.values(this.registration()).every((list) => list.length === 0);
  }

  /**
   * Restores the points from before the first start when another start begins: functions for `init`
   * add theirs at every start of the server.
   */
  noteEvent(name) {
    const isStart = name === 'before-config' || (name === 'init' && !this.#isStarting);
    this.#isStarting = name === 'before-config';
    if (!isStart) return;
    const { ops, handlers, hooks, timers, providers, events, assets } = this;
    const maps = [ops, handlers, hooks, timers, providers, events, assets];
    this.#before ??= { maps: maps.map((map) => new Map(map)), lists: copyLists(this.#lists) };
    for (const [index, map] of maps.entries()) {
      map.clear();
      for (const [key, value] of this.#before.maps[index]) map.set(key, value);
    }
    this.#lists = copyLists(this.#before.lists);
  }

  addOp(name, fn, options = {}) {
    wanted('lambda', name, fn, options, ['keyRequired', 'userRequired', ...CALL]);
    this.#add('lambda', this.ops, name, fn);
    this.#lists.op.push({ name, ...access(options), ...policy(options) });
  }

  addHandler(path, fn, options = {}) {
    wanted('handler', path, fn, options, ['method', 'keyRequired', 'userRequired', ...CALL]);
    const methods = [options.method ?? METHODS].flat().map((method) => method.toUpperCase());
    for (const method of methods) this.#add('handler', this.handlers, `${method} ${path}`, fn);
    this.#lists.handler.push({ name: path, methods, ...access(options), ...policy(options) });
  }

  addHook(trigger, type, fn, options = {}) {
    const isAfter = trigger.startsWith('after');
    const own = ['name', 'async', 'timeoutMs', isAfter ? 'catchUp' : 'idempotent'];
    wanted(`${trigger} hook`, type, fn, options, own);
    if (options.catchUp !== undefined && !CATCH_UP.includes(options.catchUp)) {
      throw new TypeError(`catchUp should be one of ${CATCH_UP.join(', ')}`);
    }
    // The server keeps a hook's deliveries under its name while the plugin is away, so the name must
    // be the same at every start.
    const name = options.name ?? [type, trigger, fn.name].filter(Boolean).join('.');
    this.#add('hook', this.hooks, name, { trigger, type, fn });
    const isAsync = options.async === true;
    this.#lists.hook.push({ name, type, trigger, async: isAsync, ...policy(options) });
  }

  addTimer(spec, fn, options = {}) {
    const name = options.name ?? fn?.name;
    if (!name && typeof fn === 'function') {
      throw new TypeError(
        'a timer needs a name: pass {name}; bundlers and minifiers remove and change those of functions'
      );
    }
    wanted('timer', name, fn, options, ['name', 'timeoutMs', 'timeZone', 'overlap']);
    this.#add('timer', this.timers, name, fn);
    const { timeZone: time_zone, overlap } = options;
    const when = { spec: timerSpec(spec), ...given({ time_zone, overlap }) };
    this.#lists.timer.push({ name, ...when, ...policy(options) });
  }

  addProvider(id, provider, options = {}) {
    // v1's providers are classes.
    const made = typeof provider === 'function' ? new provider() : provider;
    if (typeof made?.login !== 'function') throw new TypeError(`auth provider ${id} has no login`);
    wanted('auth provider', id, made.login, options, CALL);
    this.#add('auth provider', this.providers, id, made);
    this.#lists.provider.push({ type: 'auth', id, name: id, ...policy(options) });
  }

  addEvent(name, fn, options = {}) {
    wanted('event', name, fn, options, []);
    this.events.set(name, [...(this.events.get(name) ?? []), fn]);
  }

  #add(kind, known, name, value) {
    if (known.has(name)) {
      throw new Error(`there is already a ${kind} ${name}; give this one another name`);
    }
    known.set(name, value);
  }
}

const copyLists = (lists) =>
  Object.fromEntries(Object.entries(lists).map(([kind, list]) => [kind, [...list]]));

const CALL = ['timeoutMs', 'idempotent'];

/** Checks that a point has a name and a function, and no option that would have no effect. */
function wanted(kind, name, fn, options, known) {
  if (typeof name !== 'string' || name === '') throw new TypeError(`a ${kind} needs a name`);
  if (typeof fn !== 'function') throw new TypeError(`${kind} ${name} needs a function`);
  const unknown = Object.keys(options).filter((option) => !known.includes(option));
  if (unknown.length > 0) {
    const there = known.join(', ') || 'none';
    throw new TypeError(`${kind} ${name}: unknown option ${unknown[0]}; known options: ${there}`);
  }
}

const access = ({ keyRequired = false, userRequired = false }) => ({
  key_required: keyRequired,
  user_required: userRequired
});

const policy = ({ timeoutMs: timeout_ms, idempotent, catchUp: catch_up }) =>
  given({ timeout_ms, idempotent, catch_up });

/** Leaves out what was not given: the server knows the defaults better than this package. */
function given(members) {
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** Returns a timer's spec in the server's syntax; a number is an interval in seconds. */
function timerSpec(spec) {
  if (typeof spec === 'string') return spec;
  if (typeof spec === 'number' && spec >= 1) return `@every ${spec}s`;
  throw new TypeError(`a timer takes a spec or a number of seconds (at least 1), not ${spec}`);
}
