// The history of records: their versions, and points in time.

import { Record } from './record.js';
import { decode, readTime, writeTime } from './values.js';

/** Writes a moment, a position of the log or a time, in its JSON form. */
export const writeMoment = (moment) => (moment instanceof Date ? writeTime(moment) : moment);

/** A version of a record: who created it and when, and what it changed. */
export class Version {
  /** Reads a version from its JSON form. */
  static fromWire({ time, request_id, record, changes = {}, ...rest }) {
    const version = Object.assign(new Version(), {
      ...rest,
      time: readTime(time),
      requestId: request_id ?? null,
      record: record == null ? null : Record.fromWire(record),
      changes: {}
    });
    for (const [name, { before = null, after = null }] of Object.entries(changes)) {
      version.changes[name] = { before: decode(before), after: decode(after) };
    }
    return version;
  }
}
