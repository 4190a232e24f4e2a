// How much is unread, counted by the plugin: some rooms per request, and one request at a time.

const AT_ONCE = 50;

export class Unread {
  /** `counted` is called with a room's id and its number of unread messages. */
  constructor(server, counted) {
    Object.assign(this, { server, counted });
    this.rooms = new Set();
    this.isAsking = false;
  }

  /** Marks rooms whose count may have changed. */
  async look(rooms) {
    for (const room of rooms) this.rooms.add(room);
    if (this.isAsking) return;
    this.isAsking = true;
    // Also with no room, to find out whether the session is over.
    do {
      const some = [...this.rooms].slice(0, AT_ONCE);
      some.forEach((it) => this.rooms.delete(it));
      try {
        const { unread } = await this.server.insist(() => this.server.ask('chat:unread', { rooms: some }));
        some.forEach((it) => this.counted(it, unread[it] ?? 0));
      } catch (error) {
        console.warn(error);
      }
    } while (this.rooms.size);
    this.isAsking = false;
  }
}
