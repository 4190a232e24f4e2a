import { LiveClient, LiveError, LiveQuery, type LiveRecord, type LiveState } from 'skytrail-live';

interface Note extends LiveRecord {
  text: string;
  stars: number;
}

const client = new LiveClient({
  url: 'https://api.example.com',
  apiKey: 'key',
  accessToken: null,
  WebSocket,
  onSessionOver: (error) => console.log(error.code + 1, error.message),
});
const notes = client.query<Note>(
  {
    record_type: 'note',
    predicate: ['gt', { $type: 'keypath', $val: 'stars' }, 2],
    include: { room: { $type: 'keypath', $val: 'room' } },
  },
  { compare: (a, b) => b.stars - a.stars },
);
const end: () => void = notes.subscribe(({ records, isReady, isStale, error, position }) => {
  const text: string | undefined = records[0]?.text;
  const all: [boolean, boolean, LiveError | null, number | null] = [isReady, isStale, error, position];
  console.log(text, all);
  // @ts-expect-error: a snapshot is frozen
  records.push();
});
notes.onChange(({ entered, changed, left }) => console.log([...entered, ...changed, ...left].map((it) => it.text)));
const state: LiveState = client.state;
client.subscribe((it: LiveState) => console.log(it, state));
client.setAccessToken('token');
client.wake();
client.close();
end();
// @ts-expect-error: it covers every record that matches
client.query({ record_type: 'note', limit: 3 });
// @ts-expect-error: only a client makes queries
notes.constructor === new LiveQuery();

/** React's `useSyncExternalStore`, and the store of Svelte. */
declare function useSyncExternalStore<T>(subscribe: (changed: () => void) => () => void, snapshot: () => T): T;
const { records } = useSyncExternalStore(notes.subscribe, notes.snapshot);
const stored: { subscribe(run: (value: { records: readonly Note[] }) => void): () => void } = notes;
console.log(records, stored, useSyncExternalStore(client.subscribe, () => client.state));
const untyped: unknown = client.query({ record_type: 'note' }).snapshot().records[0]?.stars;
console.log(untyped);
