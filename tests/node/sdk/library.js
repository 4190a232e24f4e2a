// The books that the query groups search for.
'use strict';

const { once } = require('./harness');
const { person, query, record, skygear, unique } = require('./world');

const { Geolocation, Reference } = skygear;

/** In the middle of Hong Kong; the first book is 0 m from here, the second about 1.3 km. */
const HERE = new Geolocation(22.283, 114.15);
const MARK = unique('library');

const BOOKS = [
  {
    name: 'A',
    title: 'Tale of Ash',
    pages: 100,
    genre: 'fable',
    published: new Date('2001-01-01T00:00:00.000Z'),
    tags: ['war', 'sea'],
    spot: HERE,
    inStock: true,
    author: 'ash',
  },
  {
    name: 'B',
    title: 'tale of birch',
    pages: 200,
    genre: 'novel',
    published: new Date('2002-01-01T00:00:00.000Z'),
    tags: ['love'],
    spot: new Geolocation(22.291, 114.159),
    inStock: false,
    author: 'birch',
  },
  {
    name: 'C',
    title: 'Cedar',
    pages: 300,
    genre: 'novel',
    published: new Date('2003-01-01T00:00:00.000Z'),
    tags: { war: 1 },
    spot: new Geolocation(0, 0),
    inStock: true,
    author: 'ash',
  },
  { name: 'D', title: 'Dogwood 100%' },
];

/** Saves authors and books; resolves to the reader and what was saved, by name. */
const library = once(async () => {
  const app = await person('librarian');
  const authors = {};
  for (const name of ['ash', 'birch']) {
    authors[name] = await app.publicDB.save(record('library_author', { name }));
  }
  const books = {};
  for (const fields of BOOKS) {
    const book = record('library_book', { ...fields, mark: MARK });
    if (fields.author) book.author = new Reference(authors[fields.author]);
    books[fields.name] = await app.publicDB.save(book);
  }
  return { app, authors, books };
});

/** A query for the books of this run. */
const ask = () => query('library_book').equalTo('mark', MARK);

/** Returns the names of the books that a query finds, in its order. */
async function names(question) {
  const { app } = await library();
  const found = await app.publicDB.query(question);
  return Array.from(found, (book) => book.name).join('');
}

/** Like {@link names}, in alphabetical order. */
async function namesSorted(question) {
  return (await names(question)).split('').sort().join('');
}

module.exports = { HERE, ask, library, names, namesSorted };
