/**
 * Waits for a promise, but not for ever.
 *
 * @param {Promise<unknown>} promise One that does not reject.
 * @param {number} timeoutMs
 * @returns {Promise<boolean>} Whether it came in time.
 */
export function within(promise, timeoutMs) {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), timeoutMs);
    promise.then(() => {
      clearTimeout(timer);
      resolve(true);
    });
  });
}
