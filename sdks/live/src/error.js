/** An error of the server. `code` is one of docs/API.md, and `info` says more. */
export class LiveError extends Error {
  constructor({ code, message, info = {} }) {
    super(message);
    this.name = 'LiveError';
    this.code = code;
    this.info = info;
  }
}
