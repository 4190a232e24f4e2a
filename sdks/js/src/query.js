/** Queries, built as in v1: `new Query('note').equalTo('done', false).limit(10)`. */

import { encode, Geolocation } from './values.js';

const keypath = (name) => ({ $type: 'keypath', $val: name });

/** A query for records of a type; every method adds to the query and returns it. */
export class Query {
  #type;
  #conditions = [];
  #sort = [];
  #include = {};
  #options = {};

  constructor(recordType) {
    this.#type = recordType;
  }

  /** Returns a query for records that match any of these queries. */
  static or(...queries) {
    const merged = new Query(queries[0].#type);
    merged.#conditions.push(['or', ...queries.map((query) => query.#predicate() ?? ['and'])]);
    return merged;
  }

  /** Returns a query for records that do not match a query. */
  static not(query) {
    const inverted = new Query(query.#type);
    inverted.#conditions.push(['not', query.#predicate() ?? ['and']]);
    return inverted;
  }

  #is(operator, name, value) {
    return this.where([operator, keypath(name), encode(value)]);
  }

  /** Adds a condition in its JSON form, for conditions that have no method. */
  where(predicate) {
    this.#conditions.push(predicate);
    return this;
  }

  equalTo(name, value) {
    return this.#is('eq', name, value);
  }

  notEqualTo(name, value) {
    return this.#is('neq', name, value);
  }

  greaterThan(name, value) {
    return this.#is('gt', name, value);
  }

  greaterThanOrEqualTo(name, value) {
    return this.#is('gte', name, value);
  }

  lessThan(name, value) {
    return this.#is('lt', name, value);
  }

  lessThanOrEqualTo(name, value) {
    return this.#is('lte', name, value);
  }

  /** Matches strings by a pattern: `%` is anything, and `_` is one character. */
  like(name, pattern) {
    return this.#is('like', name, pattern);
  }

  /** Like `like`, but ignores case. */
  caseInsensitiveLike(name, pattern) {
    return this.#is('ilike', name, pattern);
  }

  /** The field is one of these values. */
  contains(name, values) {
    return this.#is('in', name, values);
  }

  /** The field is a list that contains this value. */
  containsValue(name, value) {
    return this.where(['in', encode(value), keypath(name)]);
  }

  /** The field's place is within this many metres of another. */
  withinDistance(name, place, metres) {
    const { latitude, longitude } = place;
    const distance = ['func', 'distance', keypath(name), encode(new Geolocation(latitude, longitude))];
    return this.where(['lte', distance, metres]);
  }

  addAscending(name) {
    this.#sort.push([keypath(name), 'asc']);
    return this;
  }

  addDescending(name) {
    this.#sort.push([keypath(name), 'desc']);
    return this;
  }

  /** Includes the record that a reference points at; it is then in `$transient`. */
  transientInclude(name, as = name) {
    this.#include[as] = keypath(name);
    return this;
  }

  limit(number) {
    this.#options.limit = number;
    return this;
  }

  offset(number) {
    this.#options.offset = number;
    return this;
  }

  /** Also asks for the total number of matching records. */
  count() {
    this.#options.count = true;
    return this;
  }

  #predicate() {
    if (this.#conditions.length < 2) return this.#conditions[0];
    return ['and', ...this.#conditions];
  }

  toWire() {
    const predicate = this.#predicate();
    return {
      record_type: this.#type,
      ...(predicate === undefined ? {} : { predicate }),
      ...(this.#sort.length > 0 ? { sort: this.#sort } : {}),
      ...(Object.keys(this.#include).length > 0 ? { include: this.#include } : {}),
      ...this.#options
    };
  }
}
