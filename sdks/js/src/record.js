/** Records: fields as properties, with an id, an owner, and an access list. */

import { randomUUID } from 'node:crypto';

import { withLevel } from './access.js';
import { decode, encode, readTime } from './values.js';

/**
 * A record.
 *
 *     const note = new Record('note', { title: 'hi' });     // gets a new id
 *     const same = new Record('note/1', { title: 'hi' });
 *     note.title, note._id, note.access
 *
 * Fields are the record's own properties, except those with the name of a member of this class, such
 * as `ownerID` or `toWire`: clients choose names, and must not replace what hooks rely on. `get` and
 * `set` reach every field. What the server keeps about it (owner, times) is read-only; it is sent back
 * unchanged, and the server decides about it.
 */
export class Record {
  #id;
  /** Members whose names begin with `_`, unchanged; without a prototype, which `__proto__` would set. */
  #meta = Object.create(null);
  /** Fields with the name of a member. */
  #hidden = new Map();
  #access = undefined;
  /** Whether `access` was set to null, and did not only come with the record. */
  #isOpened = false;

  constructor(id, fields = {}) {
    if (!/^[^/]+(\/.+)?$/s.test(id)) throw new TypeError(`neither a type nor an id: ${id}`);
    this.#id = id.includes('/') ? id : `${id}/${randomUUID()}`;
    for (const [name, value] of Object.entries(fields)) this.set(name, value);
  }

  /** Returns a field, whatever its name; undefined without one. */
  get(name) {
    return Object.hasOwn(this, name) ? this[name] : this.#hidden.get(name);
  }

  /** Sets a field, whatever its name. Throws `TypeError` for names that begin with `_`. */
  set(name, value) {
    if (name.startsWith('_')) throw new TypeError(`names with a leading _ are reserved: ${name}`);
    if (name in this && !Object.hasOwn(this, name)) this.#hidden.set(name, value);
    else this[name] = value;
  }

  /** The type and key: `note/1`. */
  get _id() {
    return this.#id;
  }

  get id() {
    return this.#id;
  }

  get recordType() {
    return this.#id.slice(0, this.#id.indexOf('/'));
  }

  get recordID() {
    return this.#id.slice(this.#id.indexOf('/') + 1);
  }

  /**
   * Who may read and write; null means everybody, undefined leaves it to the server. If you set it to
   * null, it is sent as a list that lets everybody write.
   */
  get access() {
    return this.#access;
  }

  set access(entries) {
    this.#access = entries;
    this.#isOpened = entries === null;
  }

  get ownerID() {
    return this.#meta._ownerID ?? null;
  }

  get createdAt() {
    return dateOf(this.#meta._created_at);
  }

  get createdBy() {
    return this.#meta._created_by ?? null;
  }

  get updatedAt() {
    return dateOf(this.#meta._updated_at);
  }

  get updatedBy() {
    return this.#meta._updated_by ?? null;
  }

  /** What arrived with the record and is not stored, such as included records. */
  get $transient() {
    const entries = Object.entries(this.#meta._transient ?? {});
    return Object.fromEntries(entries.map(([name, value]) => [name, included(value)]));
  }

  // -- access, with v1's names -------------------------------------------------------------------

  setPublicNoAccess() {
    this.#change({ public: true }, null);
  }

  setPublicReadOnly() {
    this.#change({ public: true }, 'read');
  }

  setPublicReadWriteAccess() {
    this.#change({ public: true }, 'write');
  }

  setNoAccessForUser(user) {
    this.#change({ user_id: keyOf(user) }, null);
  }

  setReadOnlyForUser(user) {
    this.#change({ user_id: keyOf(user) }, 'read');
  }

  setReadWriteAccessForUser(user) {
    this.#change({ user_id: keyOf(user) }, 'write');
  }

  setNoAccessForRole(role) {
    this.#change({ role: String(role.name ?? role) }, null);
  }

  setReadOnlyForRole(role) {
    this.#change({ role: String(role.name ?? role) }, 'read');
  }

  setReadWriteAccessForRole(role) {
    this.#change({ role: String(role.name ?? role) }, 'write');
  }

  #change(whom, level) {
    this.access = withLevel(this.#access, whom, level);
  }

  // -- on the wire -------------------------------------------------------------------------------

  static fromWire(wire) {
    const record = new Record(wire._id);
    for (const [name, value] of Object.entries(wire)) {
      if (name === '_access') record.#access = value;
      else if (name.startsWith('_')) record.#meta[name] = value;
      else record.set(name, decode(value));
    }
    return record;
  }

  toWire() {
    const named = [...this.#hidden, ...Object.entries(this)];
    const fields = named.map(([name, value]) => [name, encode(value)]);
    // To the server, null is a list that was not sent, so it would keep the one it has.
    const list = this.#isOpened ? [{ public: true, level: 'write' }] : this.#access;
    const access = list === undefined ? {} : { _access: list };
    return { ...this.#meta, _id: this.#id, ...access, ...Object.fromEntries(fields) };
  }

  /** Returns the JSON form, so that a record shows its parts in logs and comparisons. */
  toJSON() {
    return this.toWire();
  }
}

const dateOf = (text) => (typeof text === 'string' ? readTime(text) : null);

/** Returns the key of a user, given as a key or as a record. */
const keyOf = (user) => (typeof user === 'string' ? user : user.recordID);

function included(wire) {
  return wire?._type === 'record' ? Record.fromWire(wire) : decode(wire);
}
