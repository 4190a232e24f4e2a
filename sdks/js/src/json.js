/** JSON texts as the protocol requires them. */

/** Both sides reject deeper nesting. */
export const MAX_DEPTH = 64;

export const circular = () => new TypeError('a value that refers to itself cannot be sent');
export const tooDeep = () => new TypeError(`nested deeper than ${MAX_DEPTH}`);

/**
 * A lone surrogate: `JSON.stringify` writes it as an escape, and writes nothing else in this form.
 * After an odd number of backslashes it is not an escape.
 */
const HALF = /(?<!\\)((?:\\\\)*)\\ud[89a-f][0-9a-f]{2}/g;

/**
 * Writes JSON; throws `TypeError` for what other languages would not read: lone surrogates, nesting
 * that is too deep. With `isMended`, lone surrogates become U+FFFD.
 */
export function write(value, { isMended = false } = {}) {
  let text = stringify(value);
  if (text.includes('\\ud')) {
    const mended = text.replace(HALF, '$1\ufffd');
    if (!isMended && mended !== text) {
      throw new TypeError('half of a surrogate pair (of an emoji, say) cannot be sent');
    }
    text = mended;
  }
  if (isTooDeep(text)) throw tooDeep();
  return text;
}

/** Like `JSON.stringify`, but with our own errors in place of the engine's. */
function stringify(value) {
  try {
    return JSON.stringify(value);
  } catch (error) {
    if (error instanceof TypeError && /circular structure/.test(error.message)) throw circular();
    if (error instanceof RangeError && /call stack/.test(error.message)) throw tooDeep();
    throw error;
  }
}

function isTooDeep(text) {
  let depth = 0;
  let isInString = false;
  for (let index = 0; index < text.length; index += 1) {
    const char = text[index];
    if (isInString && char === '\\') index += 1;
    else if (char === '"') isInString = !isInString;
    else if (isInString) continue;
    else if (char === '}' || char === ']') depth -= 1;
    else if (char === '{' || char === '[') depth += 1;
    if (depth > MAX_DEPTH) return true;
  }
  return false;
}
