// Checked by types.test.js, never run.
import { LiveClient, type LiveRecord, type Snapshot } from 'skytrail-live';

interface Note extends LiveRecord {
  title: string;
}

const client = new LiveClient({ url: '/', apiKey: 'key', onSessionOver: ({ code }) => console.log(code) });
const notes = client.query<Note>(
  { record_type: 'note', predicate: ['gt', { $type: 'keypath', $val: 'stars' }, 2] },
  { compare: (one, other) => one.title.localeCompare(other.title), onChanges: ({ left }) => console.log(left.length) },
);
const snapshot: Snapshot<Note> = notes.snapshot();
const titles: string[] = snapshot.records.map((note) => note.title);
const unsubscribe: () => void = notes.subscribe(() => console.log(titles, snapshot.error?.message));
unsubscribe();
client.subscribe(() => console.log(client.state === 'live'));
new LiveClient({ url: 'http://localhost', WebSocket });
notes.first().then((records) => console.log(records[0]?.title));

// @ts-expect-error a result is not cut
client.query({ record_type: 'note', limit: 10 });
// @ts-expect-error a snapshot is not changed
snapshot.records.push();
