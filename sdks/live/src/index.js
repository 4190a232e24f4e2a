export { LiveClient } from './client.js';
