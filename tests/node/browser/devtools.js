// A browser that is controlled over its own protocol.
'use strict';

const { spawn } = require('node:child_process');
const fs = require('node:fs/promises');
const { w3cwebsocket: WebSocket } = require('websocket');

const PATIENCE_MS = 90000;
// Options that keep the browser from touching the network or the machine beyond the test.
const QUIET = [
  '--headless', '--no-sandbox', '--disable-gpu', '--disable-dev-shm-usage',
  '--disable-background-networking', '--disable-component-update', '--disable-sync',
  '--no-first-run', '--remote-debugging-port=0',
];

/** Waits until something is true. */
async function until(what, isTrue) {
  const deadline = Date.now() + PATIENCE_MS;
  let last;
  while (Date.now() < deadline) {
    last = await Promise.resolve().then(isTrue).catch((error) => error);
    if (last === true) return;
    await new Promise((resolve) => setTimeout(resolve, 30));
  }
  throw new Error(`${what}: not within ${PATIENCE_MS} ms (${last})`);
}

/** A page in its own profile. */
class Page {
  constructor(browser, session) {
    this.browser = browser;
    this.session = session;
  }

  send(method, params) {
    return this.browser.send(method, params, this.session);
  }

  /** Returns the value of an expression in the page. */
  async evaluate(expression) {
    const { result, exceptionDetails } = await this.send('Runtime.evaluate', {
      expression, awaitPromise: true, returnByValue: true, userGesture: true,
    });
    if (exceptionDetails) {
      throw new Error(exceptionDetails.exception?.description ?? exceptionDetails.text);
    }
    return result.value;
  }

  /** Waits until an expression is true in the page. */
  async until(what, expression) {
    try {
      await until(what, () => this.evaluate(expression));
    } catch (error) {
      const seen = await this.evaluate('document.body.innerText').catch(String);
      throw new Error(`${error.message}; seen:\n${seen}`);
    }
  }

  async goTo(url) {
    await this.send('Page.navigate', { url });
    await this.until(`${url} is ready`, 'document.body.dataset.ready === "yes"');
  }

  async pressEnter() {
    const key = { key: 'Enter', code: 'Enter', windowsVirtualKeyCode: 13, text: '\r' };
    await this.send('Input.dispatchKeyEvent', { type: 'keyDown', ...key });
    await this.send('Input.dispatchKeyEvent', { type: 'keyUp', ...key });
  }

  /** Blocks requests whose address matches one of these patterns. */
  async block(...urls) {
    await this.send('Network.enable');
    await this.send('Network.setBlockedURLs', { urls });
  }

  async chooseFile(selector, path) {
    const { root } = await this.send('DOM.getDocument');
    const { nodeId } = await this.send('DOM.querySelector', { nodeId: root.nodeId, selector });
    await this.send('DOM.setFileInputFiles', { nodeId, files: [path] });
  }

  async screenshot(path) {
    const { data } = await this.send('Page.captureScreenshot', { format: 'png' });
    await fs.writeFile(path, Buffer.from(data, 'base64'));
  }
}

class Browser {
  static async start(profile) {
    const process = spawn('chromium', [...QUIET, `--user-data-dir=${profile}`], {
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    const url = await new Promise((resolve, reject) => {
      let said = '';
      process.stderr.on('data', (bytes) => {
        said += bytes;
        const found = /DevTools listening on (ws:\S+)/.exec(said);
        if (found) resolve(found[1]);
      });
      process.on('exit', () => reject(new Error(`the browser ended:\n${said}`)));
    });
    const browser = new Browser(process, new WebSocket(url));
    await new Promise((resolve) => { browser.socket.onopen = resolve; });
    return browser;
  }

  constructor(process, socket) {
    this.process = process;
    this.socket = socket;
    this.waiting = new Map();
    this.number = 0;
    socket.onmessage = ({ data }) => {
      const { id, result, error } = JSON.parse(data);
      const waiter = this.waiting.get(id);
      if (!waiter) return;
      this.waiting.delete(id);
      if (error) waiter.reject(new Error(error.message));
      else waiter.resolve(result);
    };
  }

  send(method, params = {}, sessionId = undefined) {
    this.number += 1;
    const id = this.number;
    this.socket.send(JSON.stringify({ id, method, params, sessionId }));
    return new Promise((resolve, reject) => this.waiting.set(id, { resolve, reject }));
  }

  /** Opens a page that shares nothing with the others. */
  async page({ width = 1080, height = 720, mobile = false, scheme = 'light' } = {}) {
    const { browserContextId } = await this.send('Target.createBrowserContext');
    const { targetId } = await this.send('Target.createTarget', { url: 'about:blank', browserContextId });
    const { sessionId } = await this.send('Target.attachToTarget', { targetId, flatten: true });
    const page = new Page(this, sessionId);
    await page.send('Page.enable');
    // Every page counts as focused, though only one is in front.
    await page.send('Emulation.setFocusEmulationEnabled', { enabled: true });
    const metrics = { width, height, mobile, deviceScaleFactor: 1 };
    await page.send('Emulation.setDeviceMetricsOverride', metrics);
    const features = [{ name: 'prefers-color-scheme', value: scheme }];
    await page.send('Emulation.setEmulatedMedia', { features });
    return page;
  }

  end() {
    this.process.removeAllListeners('exit');
    this.process.kill('SIGKILL');
  }
}

module.exports = { Browser, until };
