/** Writes lines to standard error, from a minimum level on. */

const LEVELS = ['debug', 'info', 'warn', 'error'];

export function makeLog(level = process.env.LOG_LEVEL ?? 'info') {
  const least = LEVELS.indexOf(level.toLowerCase().replace('warning', 'warn'));
  const write = (own) => (text) => {
    const line = `${new Date().toISOString()} ${own} ${text}\n`;
    if (LEVELS.indexOf(own) >= least) process.stderr.write(line);
  };
  return Object.fromEntries(LEVELS.map((own) => [own, write(own)]));
}
