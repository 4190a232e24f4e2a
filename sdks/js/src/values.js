/**
 * Values that JSON cannot represent: dates, references, places, files, records.
 *
 * In JSON they are objects with a `$type`. A value whose type this package does not know is sent back
 * unchanged, and so is a date that no `Date` can hold.
 */

import { HttpHeaders } from './headers.js';
import { circular, MAX_DEPTH, tooDeep } from './json.js';
import { Record } from './record.js';

/** A value that refers to a record. */
export class Reference {
  /** `target` is an id such as `note/1`, or a record. */
  constructor(target) {
    this.id = typeof target === 'string' ? target : target._id;
    if (!/^[^/]+\/./.test(this.id ?? '')) {
      throw new TypeError(`a record id should be type/key, not ${this.id}`);
    }
  }
}

/** A point on earth, in degrees. */
export class Geolocation {
  constructor(latitude, longitude) {
    this.latitude = latitude;
    this.longitude = longitude;
  }
}

/** A file. `url` is signed, valid for some minutes, and never stored. */
export class Asset {
  constructor({ name, contentType = undefined, url = undefined }) {
    this.name = name;
    this.contentType = contentType;
    this.url = url;
  }
}

/** Saved into a field, it makes the server number the records. */
export class Sequence {}

/** A value whose type the server does not know. */
export class UnknownValue {
  constructor(underlyingType = undefined) {
    this.underlyingType = underlyingType;
  }
}

/** A shape, as GeoJSON. */
export class GeoJSON {
  constructor(value) {
    this.value = value;
  }
}

/** A value with a `$type` that this package does not know, or a date that no `Date` can hold. */
export class ForeignValue {
  constructor(wire) {
    this.wire = wire;
  }
}

/**
 * Dates as they arrived: the server keeps fractions of a millisecond, which a `Date` cannot hold. A
 * date that nobody changed is sent back with them.
 */
const exactDates = new WeakMap();

/** The form of a date, whether or not a `Date` can hold it. */
const DATE = /^[+-]?\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)$/i;

function readDate(wire) {
  const date = readTime(wire.$date);
  if (!Number.isNaN(date.getTime())) return date;
  if (DATE.test(wire.$date)) return new ForeignValue(wire);
  throw new TypeError(`not a date: ${wire.$date}`);
}

/** Reads a time; the result is an invalid `Date` if none can hold it. */
export function readTime(text) {
  const date = new Date(text);
  exactDates.set(date, { time: date.getTime(), text });
  return date;
}

/** Writes a time, with its original microseconds if nobody changed it. Throws for an invalid `Date`. */
export function writeTime(date) {
  const exact = exactDates.get(date);
  if (exact !== undefined && exact.time === date.getTime()) return exact.text;
  if (Number.isNaN(date.getTime())) throw new TypeError('an invalid Date cannot be sent');
  return date.toISOString();
}

const READERS = new Map(
  Object.entries({
    date: readDate,
    ref: (wire) => new Reference(wire.$id),
    geo: (wire) => new Geolocation(wire.$lat, wire.$lng),
    asset: (wire) =>
      new Asset({ name: wire.$name, contentType: wire.$content_type, url: wire.$url }),
    seq: () => new Sequence(),
    unknown: (wire) => new UnknownValue(wire.$underlying_type),
    geojson: (wire) => new GeoJSON(wire.$val),
    record: (wire) => Record.fromWire(wire.$record)
  })
);

/** Turns typed objects into values, at any depth. */
export function decode(wire) {
  if (Array.isArray(wire)) return wire.map(decode);
  if (typeof wire !== 'object' || wire === null) return wire;
  if ('$type' in wire) return READERS.get(wire.$type)?.(wire) ?? new ForeignValue(wire);
  return mapObject(wire, decode);
}

const WRITERS = [
  [Date, (date) => ({ $type: 'date', $date: writeTime(date) })],
  [Reference, (reference) => ({ $type: 'ref', $id: reference.id })],
  [Geolocation, (place) => ({ $type: 'geo', $lng: place.longitude, $lat: place.latitude })],
  [
    Asset,
    (asset) => ({
      $type: 'asset',
      $name: asset.name,
      $content_type: asset.contentType,
      $url: asset.url
    })
  ],
  [Sequence, () => ({ $type: 'seq' })],
  [UnknownValue, (value) => ({ $type: 'unknown', $underlying_type: value.underlyingType })],
  [GeoJSON, (shape) => ({ $type: 'geojson', $val: shape.value })],
  [ForeignValue, (foreign) => foreign.wire]
];

/** Types of name-value pairs, of the platform and of this package; a name can occur several times. */
const NAMED_VALUES = [URLSearchParams, FormData, Headers, HttpHeaders];

const BYTES = [ArrayBuffer, Blob];

/** What would be sent as `{}`. */
const WITHOUT_FORM = [Error, RegExp, WeakMap, WeakSet];

const isOneOf = (types, value) => types.some((type) => value instanceof type);

/** Turns values into typed objects, at any depth. Throws `TypeError` for what cannot be sent. */
export function encode(value) {
  switch (typeof value) {
    case 'string':
    case 'boolean':
    case 'undefined':
      return value;
    case 'number':
      if (!Number.isFinite(value)) throw new TypeError(`${value} cannot be sent`);
      return value;
    case 'object':
      return value === null ? null : encodeWithin(value);
    default:
      throw new TypeError(`a ${typeof value} cannot be sent`);
  }
}

/** The values that are being written, outermost first, also from within a `toJSON` or a record. */
const path = [];

function encodeWithin(value) {
  if (path.includes(value)) throw circular();
  // An object and the result of its `toJSON` are one level; `write` catches the rest that is too deep.
  if (path.length >= 2 * MAX_DEPTH) throw tooDeep();
  path.push(value);
  try {
    return encodeObject(value);
  } finally {
    path.pop();
  }
}

function encodeObject(value) {
  if (Array.isArray(value)) return Array.from(value, (item) => encode(item) ?? null);
  if (value instanceof Record) return { $type: 'record', $record: value.toWire() };
  for (const [type, write] of WRITERS) if (value instanceof type) return write(value);
  if (ArrayBuffer.isView(value) || isOneOf(BYTES, value)) {
    throw new TypeError('bytes cannot be sent in JSON: store a file, or encode them as text');
  }
  // Nearly always a forgotten `await`.
  if (typeof value.then === 'function') throw new TypeError('a promise cannot be sent: await it');
  if (typeof value.toJSON === 'function') return encode(value.toJSON());
  if (value instanceof Map) return mapObject(Object.fromEntries(value), encode);
  if (value instanceof Set) return encodeObject([...value]);
  if (isOneOf(NAMED_VALUES, value)) return mapObject(byName(value), encode);
  if (isOneOf(WITHOUT_FORM, value)) throw new TypeError(`${typeName(value)} cannot be sent`);
  return mapObject(value, encode);
}

const typeName = (value) => `an object of type ${value.constructor?.name ?? 'Error'}`;

/** Returns an object in which a name that occurs several times has the list of its values. */
function byName(pairs) {
  const values = new Map();
  for (const [name, value] of pairs) {
    const list = values.get(name);
    if (list) list.push(value);
    else values.set(name, [value]);
  }
  return Object.fromEntries(
    [...values].map(([name, list]) => [name, list.length === 1 ? list[0] : list])
  );
}

/** Uses `Object.fromEntries`, so that a member named `__proto__` stays a member. */
function mapObject(object, change) {
  return Object.fromEntries(Object.entries(object).map(([name, value]) => [name, change(value)]));
}
