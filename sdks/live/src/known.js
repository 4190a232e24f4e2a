/**
 * What a client knows of one query's result: frames of the server come in. Pure.
 *
 * Changes are applied when they arrive, whether or not what belongs to them arrives as well: if the
 * connection is lost in between, they may not come again, and those that do come again do no harm.
 */
export class Known {
  /** The records, by id. */
  records = new Map();
  /** Where to come back: the last position that was reported, and its timeline. */
  place = {};
  /** Whether there has been a whole result. */
  isReady = false;
  /** The ids of records that may have changed since `settle`; `null` for all. */
  touched = new Set();

  /** Whether the records are the result at one position. */
  isWhole = false;

  /** A whole result on its way. */
  #arriving = null;

  /** The query is asked, from `place`; the server sends what was missed, or the whole result. */
  begin() {
    this.#arriving = this.place.from === undefined ? new Map() : null;
    this.isWhole = false;
  }

  /** Forgets everything. */
  clear() {
    this.records = new Map();
    this.place = {};
    this.isReady = false;
    this.isWhole = false;
    this.touched = null;
  }

  /** Applies a frame. */
  take({ event, position, timeline, record, records }) {
    switch (event) {
      case 'result':
        this.#arriving ??= new Map();
        for (const each of records) this.#arriving.set(each._id, each);
        break;
      case 'reset':
        this.place = {};
        this.#arriving = new Map();
        this.isWhole = false;
        break;
      case 'enter':
      case 'change':
        this.#change(record._id, position, (known) => known.set(record._id, record));
        break;
      case 'leave':
        this.#change(record._id, position, (known) => known.delete(record._id));
        break;
      case 'ready':
        if (this.#arriving) {
          this.records = this.#arriving;
          this.touched = null;
        }
        this.#arriving = null;
        this.isReady = true;
        this.isWhole = true;
        this.place = { from: position, timeline };
        break;
      default:
    }
  }

  /** Takes note that everything has been shown; returns what had changed since the last time. */
  settle() {
    const { touched } = this;
    this.touched = new Set();
    return touched;
  }

  #change(id, position, apply) {
    apply(this.records);
    this.touched?.add(id);
    // Changes without a position belong together, until `ready` names one.
    if (position === undefined) this.isWhole = false;
    else this.place.from = position;
  }
}
