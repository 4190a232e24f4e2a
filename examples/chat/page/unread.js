// How much is unread, counted by the plugin: some rooms at a time, and never two questions at once.

const AT_ONCE = 50;

export class Unread {
  /** `counted` is called with a room's id and how much in it is unread. */
  constructor(server, counted) {
    Object.assign(this, { server, counted });
    this.rooms = new Set();
    this.isAsking = false;
  }

  /** Says that in these rooms it may be another number than it was. */
  async look(rooms) {
    for (const room of rooms) this.rooms.add(room);
    if (this.isAsking) return;
    this.isAsking = true;
    // Also without a room: so a session that is over is found out.
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
