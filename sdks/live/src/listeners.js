/** Calls listeners, each in a list of its own. If one throws, the others are called nevertheless. */
export function tell(listeners, value) {
  for (const [listener] of listeners) {
    try {
      listener(value);
    } catch (error) {
      // As an error that nobody has caught, which it is.
      queueMicrotask(() => {
        throw error;
      });
    }
  }
}
