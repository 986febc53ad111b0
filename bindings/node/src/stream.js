import { CarError } from './errors.js';

/**
 * Unread events of a stream, in bytes on the wire, at which its reader counts as behind: while
 * nothing else is waited for, the core is read no further, and its model waits.
 */
export const STREAM_BEHIND_BYTES = 1024 * 1024;

/**
 * Unread events of a stream, in bytes on the wire, beyond which events are dropped. It comes to
 * that only while something else is waited for, which must not wait behind them.
 */
export const STREAM_MAX_BYTES = 16 * 1024 * 1024;

/**
 * @template Event
 * @typedef {object} Waiting A call of `next()` that has no event yet.
 * @property {(result: IteratorResult<Event, undefined>) => void} resolve
 * @property {(error: unknown) => void} reject
 */

/**
 * The events of one request, and its result.
 *
 * Iterate it once. Leaving the loop early cancels the request and waits for the confirmation. When
 * the request fails, the loop throws the error that `result` rejects with.
 *
 * @template Event
 * @template Result
 * @implements {AsyncIterableIterator<Event>}
 */
export class EventStream {
  /** @type {{ event: Event, size: number }[]} */
  #unread = [];
  /** Where the unread events begin. */
  #head = 0;
  #unreadBytes = 0;
  /** @type {Waiting<Event>[]} */
  #waiting = [];
  /** @type {unknown} What the reader has not been told yet. */
  #failure;
  #ended = false;
  #resultWanted = false;
  #connection;
  #call;

  /**
   * @param {import('./connection.js').Connection} connection
   * @param {string} method
   * @param {object} params
   * @param {AbortSignal} [signal]
   */
  constructor(connection, method, params, signal) {
    this.#connection = connection;
    const onEvent = (/** @type {Event} */ event, /** @type {number} */ size) =>
      this.#push(event, size);
    this.#call = connection.begin(method, params, { signal, onEvent });
    this.#call.result.then(
      () => this.#end(undefined),
      (error) => this.#end(error),
    );
    // Whoever aborts does not want what has come so far.
    const onAbort = () => this.#forget();
    signal?.addEventListener('abort', onAbort, { once: true });
    this.#call.answered.then(() => signal?.removeEventListener('abort', onAbort));
  }

  /** JSON-RPC id of the request. */
  get requestId() {
    return this.#call.id;
  }

  /**
   * The result, once the stream has ended. No unhandled rejection when nobody looks at it.
   *
   * @returns {Promise<Result>}
   */
  get result() {
    // From now on the answer is waited for, and it comes after all events.
    this.#resultWanted = true;
    this.#connection.setBehind(this.#call, false);
    return this.#call.result;
  }

  [Symbol.asyncIterator]() {
    return this;
  }

  /** @returns {Promise<IteratorResult<Event, undefined>>} */
  next() {
    const entry = this.#unread[this.#head];
    if (entry) return Promise.resolve({ done: false, value: this.#take(entry) });
    if (this.#failure !== undefined) {
      const error = this.#failure;
      this.#failure = undefined;
      return Promise.reject(error);
    }
    if (this.#ended) return Promise.resolve({ done: true, value: undefined });
    return new Promise((resolve, reject) => this.#waiting.push({ resolve, reject }));
  }

  /**
   * Reads no more: cancels the request, if it still runs, and waits for the answer, bounded.
   *
   * @returns {Promise<IteratorResult<Event, undefined>>}
   */
  async return() {
    this.#end(undefined);
    this.#failure = undefined;
    this.#forget();
    await this.#connection.cancel(this.#call);
    return { done: true, value: undefined };
  }

  /**
   * @param {Event} event
   * @param {number} size
   */
  #push(event, size) {
    if (this.#ended || this.#call.cancelled) return;
    const waiting = this.#waiting.shift();
    if (waiting) {
      waiting.resolve({ done: false, value: event });
      return;
    }
    if (this.#unreadBytes > STREAM_MAX_BYTES) {
      this.#overflow();
      return;
    }
    this.#unread.push({ event, size });
    this.#unreadBytes += size;
    this.#tellBehind();
  }

  /** @param {{ event: Event, size: number }} entry */
  #take(entry) {
    this.#head += 1;
    this.#unreadBytes -= entry.size;
    // Half of the array is read: this keeps both the array short and the cost of an event constant.
    if (this.#head * 2 >= this.#unread.length) {
      this.#unread = this.#unread.slice(this.#head);
      this.#head = 0;
    }
    this.#tellBehind();
    return entry.event;
  }

  #forget() {
    this.#unread = [];
    this.#head = 0;
    this.#unreadBytes = 0;
    this.#tellBehind();
  }

  #tellBehind() {
    const behind = this.#unreadBytes > STREAM_BEHIND_BYTES && !this.#resultWanted;
    this.#connection.setBehind(this.#call, behind);
  }

  #overflow() {
    const message = `more than ${STREAM_MAX_BYTES} bytes of events were not read`;
    const error = new CarError(message, { kind: 'stream_overflow', local: true });
    this.#end(error);
    if (!this.#resultWanted) this.#connection.cancel(this.#call, error);
  }

  /** @param {unknown} error */
  #end(error) {
    if (this.#ended) return;
    this.#ended = true;
    this.#failure = error;
    for (const { resolve, reject } of this.#waiting.splice(0)) {
      if (this.#failure === undefined) resolve({ done: true, value: undefined });
      else reject(this.#failure);
      this.#failure = undefined;
    }
  }
}
