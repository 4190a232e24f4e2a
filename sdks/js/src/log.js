/** Writes lines to standard error, from a minimum level on. */

const LEVELS = ['debug', 'info', 'warn', 'error'];
/** The server's names, so that both can have the same environment. */
const NAMES = new Map([
  ...LEVELS.map((level) => [level, level]),
  ['trace', 'debug'],
  ['warning', 'warn'],
  ['fatal', 'error'],
  ['panic', 'error'],
  ['off', 'off']
]);

/**
 * Returns the level of a setting. Throws `TypeError` for a name that means none.
 *
 * Of a filter for the server (`info,skytrail::http=debug`) the part for everything counts, the last if
 * there are several. What is about modules (`=`, `::`) or spans (`[`) is not for plugins.
 */
export function checkedLevel(text) {
  const parts = (text ?? '').split(',').map((part) => part.trim());
  const words = parts.filter((part) => part !== '' && !/=|::|\[/.test(part));
  const levels = words.map((word) => NAMES.get(word.toLowerCase()));
  if (!levels.includes(undefined)) return levels.at(-1) ?? 'info';
  throw new TypeError(`LOG_LEVEL should be ${LEVELS.join(', ')} or off, not ${text}`);
}

export function makeLog(level = 'info') {
  const least = level === 'off' ? Infinity : LEVELS.indexOf(level);
  const write = (own) => (text) => {
    const line = `${new Date().toISOString()} ${own} ${text}\n`;
    if (LEVELS.indexOf(own) >= least) process.stderr.write(line);
  };
  return Object.fromEntries(LEVELS.map((own) => [own, write(own)]));
}
