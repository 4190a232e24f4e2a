/** Plugins for Skytrail. See the README. */

import { Plugin } from './plugin.js';

export { Api } from './api.js';
export {
  ApiError,
  CallTimeout,
  Cancelled,
  ConnectionLost,
  Drop,
  ErrorCodes,
  MessageTooLarge,
  Refused,
  RetryAfter,
  SkytrailError,
  SkytrailError as SkygearError
} from './errors.js';
export { HttpHeaders } from './headers.js';
export { Version } from './history.js';
export { HandlerRequest, SkygearResponse } from './http.js';
export { Plugin } from './plugin.js';
export { Query } from './query.js';
export { Record } from './record.js';
export {
  Asset,
  ForeignValue,
  GeoJSON,
  Geolocation,
  Reference,
  Sequence,
  UnknownValue
} from './values.js';

/** The plugin of a process that has only one, named by `PLUGIN_NAME`. */
const plugin = new Plugin();
export default plugin;
