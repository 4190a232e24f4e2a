export { LiveClient } from './client.js';
export { LiveError } from './error.js';
export { LiveQuery } from './query.js';
