/** Listeners, each with what it was told last. So none is ever told of what is over. */
export class Listeners {
  #entries = new Set();
  #isTelling = false;
  #news;
  #present;

  /**
   * `present()` is what there is to tell now, and `news(told, present)` what a listener is called
   * with that was told `told` last; undefined if there is nothing new.
   */
  constructor(present, news) {
    this.#present = present;
    this.#news = news;
  }

  get size() {
    return this.#entries.size;
  }

  /** Adds a listener that has been told `told`; returns its entry. The same function can listen twice. */
  add(listener, told) {
    const entry = { listener, told };
    this.#entries.add(entry);
    return entry;
  }

  /** Returns whether it was there. */
  delete(entry) {
    return this.#entries.delete(entry);
  }

  clear() {
    this.#entries.clear();
  }

  /** Calls a listener if there is anything new for it. */
  tell(entry) {
    const present = this.#present();
    const news = this.#news(entry.told, present);
    if (news === undefined) return false;
    entry.told = present;
    try {
      entry.listener(news);
    } catch (error) {
      // As an error that nobody has caught, which it is.
      queueMicrotask(() => {
        throw error;
      });
    }
    return true;
  }

  /** Tells all listeners, also what changes while they are told. */
  tellAll() {
    // Whoever is called can change something: what tells already goes on until nobody has missed it.
    if (this.#isTelling) return;
    this.#isTelling = true;
    let isNew = true;
    while (isNew) {
      isNew = false;
      for (const entry of [...this.#entries]) {
        if (this.#entries.has(entry) && this.tell(entry)) isNew = true;
      }
    }
    this.#isTelling = false;
  }
}

/** What a listener is called with that is always told all there is. */
export const whole = (told, present) => (told === present ? undefined : present);
