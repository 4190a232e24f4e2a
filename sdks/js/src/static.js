/** Files of the plugin, served below `/static/`. */

import { readFile } from 'node:fs/promises';
import { extname, resolve, sep } from 'node:path';

import { ErrorCodes, SkytrailError } from './errors.js';
import { SkygearResponse } from './http.js';

export const HANDLER = 'static/';

const TYPES = {
  '.css': 'text/css; charset=utf-8',
  '.gif': 'image/gif',
  '.html': 'text/html; charset=utf-8',
  '.ico': 'image/x-icon',
  '.jpeg': 'image/jpeg',
  '.jpg': 'image/jpeg',
  '.js': 'text/javascript; charset=utf-8',
  '.json': 'application/json',
  '.mjs': 'text/javascript; charset=utf-8',
  '.pdf': 'application/pdf',
  '.png': 'image/png',
  '.svg': 'image/svg+xml',
  '.txt': 'text/plain; charset=utf-8',
  '.wasm': 'application/wasm',
  '.webp': 'image/webp',
  '.woff2': 'font/woff2'
};

/** Folders by prefix. */
export class StaticAssets {
  /** By prefix, without leading and trailing slashes: the function that returns the folder. */
  folders;

  constructor(folders = new Map()) {
    this.folders = folders;
  }

  add(prefix, folder) {
    const name = prefix.replace(/^\/+|\/+$/g, '');
    if (this.folders.has(name)) throw new Error(`there are already static assets below ${prefix}`);
    this.folders.set(name, folder);
  }

  /** Handles every request below `/static/`. */
  async serve(request) {
    const path = request.path.slice(`/${HANDLER}`.length);
    const fitting = [...this.folders.keys()].filter((it) => it === '' || path.startsWith(`${it}/`));
    const prefix = fitting.sort((a, b) => b.length - a.length)[0];
    const body = prefix === undefined ? null : await this.#read(prefix, path);
    if (body === null) throw new SkytrailError(`no such file: ${path}`, ErrorCodes.ResourceNotFound);
    const type = TYPES[extname(path).toLowerCase()] ?? 'application/octet-stream';
    return new SkygearResponse({ headers: { 'Content-Type': type }, body });
  }

  async #read(prefix, path) {
    const folder = resolve(await this.folders.get(prefix)());
    const file = resolve(folder, path.slice(prefix.length).replace(/^\/+/, ''));
    if (!file.startsWith(folder + sep)) return null;
    try {
      return await readFile(file);
    } catch (error) {
      if (['ENOENT', 'EISDIR', 'ENOTDIR', 'ERR_INVALID_ARG_VALUE'].includes(error.code)) return null;
      throw error;
    }
  }
}
