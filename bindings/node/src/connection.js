/**
 * Requests and their answers in both directions. Knows no process: bytes come in through
 * `receive`, lines go out through the `Output`.
 */

import { setMaxListeners } from 'node:events';

import { CarError } from './errors.js';
import { LineSplitter, encode } from './framing.js';

/**
 * How long a cancelled request may take to be answered, in milliseconds: longer than the core
 * takes to give up on a model that hangs.
 */
export const CANCEL_TIMEOUT_MS = 15_000;

/** Id at the beginning of a response that is too long to be read. */
const RESPONSE_ID = /^\{"jsonrpc":"2\.0","id":(\d+),"(?:result|error)":/;

/** Id and method at the beginning of a request that is too long to be read. */
const REQUEST = /^\{"jsonrpc":"2\.0","id":(\d+|"(?:[^"\\]|\\.)*"),"method":"([^"\\]*)",/;

/** Notifications that carry the events of a request. */
const STREAMED = new Set(['generate.event', 'eventlog.event']);

/** How much of a line that is no message is reported, in characters. */
const REPORTED_CHARS = 500;

/**
 * @typedef {number | string} RequestId
 *
 * @typedef {object} Output Where messages go.
 * @property {(line: string) => void} write Sends a line. Never fails: what is lost with the
 *   process is answered by `lose`.
 * @property {() => boolean} isFull Whether too much waits to be read by the core.
 * @property {(wanted: boolean) => void} wantInput Whether `receive` may be called.
 *
 * @typedef {object} Handlers What the core asks and tells.
 * @property {(id: RequestId, method: string, params: any) => void} onRequest
 * @property {(method: string, params: any) => void} onNotification
 * @property {(message: string, source: string) => void} onProblem Something was ignored.
 */

/** A request that was sent, or failed before that. */
export class Call {
  /** @type {(value: any) => void} */
  #resolve = () => {};
  /** @type {(error: Error) => void} */
  #reject = () => {};

  /**
   * @param {number} id
   * @param {string} method
   * @param {((event: any, size: number) => void) | undefined} onEvent
   */
  constructor(id, method, onEvent) {
    this.id = id;
    this.method = method;
    this.onEvent = onEvent;
    this.settled = false;
    /** @type {{ reason: unknown } | undefined} Set once it is cancelled. */
    this.cancelled = undefined;
    /** @type {Promise<any>} The result. Whoever does not look at it is not punished. */
    this.result = new Promise((resolve, reject) => {
      this.#resolve = resolve;
      this.#reject = reject;
    });
    this.result.catch(() => {});
    /** Resolves when the answer is there, whatever it is. */
    this.answered = this.result.then(ignore, ignore);
  }

  /** @param {any} result */
  resolve(result) {
    this.settled = true;
    this.#resolve(result);
  }

  /** @param {Error} error */
  reject(error) {
    this.settled = true;
    this.#reject(error);
  }
}

function ignore() {}

/** The client's end of the wire. */
export class Connection {
  /** @type {Map<RequestId, Call>} Our requests without an answer. */
  #calls = new Map();
  /** @type {Map<Call, (() => void)[]>} Streams whose reader is behind, and who waits for it. */
  #behind = new Map();
  /** Runs of ours that the core may cancel at any time, so that reading goes on. */
  #runs = 0;
  #wantsInput = true;
  #nextId = 1;
  /** @type {CarError | undefined} */
  #lost;
  #output;
  #handlers;
  #splitter;

  /**
   * @param {Output} output
   * @param {Handlers} handlers
   * @param {number} maxMessageBytes Longest message that is accepted, in bytes.
   */
  constructor(output, handlers, maxMessageBytes) {
    this.#output = output;
    this.#handlers = handlers;
    this.#splitter = new LineSplitter(maxMessageBytes);
  }

  // Our requests

  /**
   * Sends a request. Never throws: what is wrong rejects the call's result.
   *
   * @param {string} method
   * @param {object} params
   * @param {object} [options]
   * @param {AbortSignal} [options.signal] Cancels the request when it is aborted.
   * @param {(event: any, size: number) => void} [options.onEvent] Gets the events of its stream,
   *   each with its size on the wire.
   */
  begin(method, params, { signal, onEvent } = {}) {
    const call = new Call(this.#nextId++, method, onEvent);
    try {
      this.#checkReady(method, signal);
      this.#output.write(encode({ jsonrpc: '2.0', id: call.id, method, params }));
    } catch (error) {
      call.reject(/** @type {Error} */ (error));
      return call;
    }
    this.#calls.set(call.id, call);
    this.#updateWanted();
    if (signal) this.#cancelOnAbort(call, signal);
    return call;
  }

  /**
   * Sends a request and returns its result.
   *
   * @param {string} method
   * @param {object} params
   * @param {AbortSignal} [signal]
   * @returns {Promise<any>}
   */
  request(method, params, signal) {
    return this.begin(method, params, { signal }).result;
  }

  /**
   * @param {string} method
   * @param {object} params
   */
  notify(method, params) {
    if (!this.#lost) this.#output.write(encode({ jsonrpc: '2.0', method, params }));
  }

  /**
   * Cancels a request and waits for its answer, bounded: the core may hang.
   *
   * @param {Call} call
   * @param {unknown} [reason] Becomes the error's cause.
   */
  async cancel(call, reason) {
    if (!call.settled && !call.cancelled) {
      call.cancelled = { reason };
      this.setBehind(call, false);
      this.notify('$/cancelRequest', { id: call.id });
      const timer = setTimeout(() => this.#settle(call, unconfirmed(call)), CANCEL_TIMEOUT_MS);
      call.answered.then(() => clearTimeout(timer));
    }
    await call.answered;
  }

  // Their requests

  /**
   * Answers a request of the core.
   *
   * @param {RequestId} id
   * @param {{ result: unknown } | { error: object }} outcome
   */
  respond(id, outcome) {
    if (!this.#lost) this.#output.write(encode({ jsonrpc: '2.0', id, ...outcome }));
  }

  /** Whether a message that may be left out should be. */
  get isFull() {
    return this.#lost !== undefined || this.#output.isFull();
  }

  // Flow

  /**
   * Tells whether the reader of a stream is behind. When nothing else is waited for, no more is
   * read, so that the core and its model wait, too.
   *
   * @param {Call} call
   * @param {boolean} behind
   */
  setBehind(call, behind) {
    if (behind && !call.settled && !call.cancelled) {
      if (!this.#behind.has(call)) this.#behind.set(call, []);
    } else {
      const waiting = this.#behind.get(call) ?? [];
      this.#behind.delete(call);
      for (const resolve of waiting) resolve();
    }
    this.#updateWanted();
  }

  /**
   * Resolves when the reader of a request's stream has caught up; at once when there is none.
   *
   * @param {RequestId} id
   * @returns {Promise<void>}
   */
  caughtUp(id) {
    const call = this.#calls.get(id);
    const waiting = call && this.#behind.get(call);
    return waiting ? new Promise((resolve) => void waiting.push(resolve)) : Promise.resolve();
  }

  /** A run of ours began; returns what tells that it is over. */
  beginRun() {
    this.#runs += 1;
    this.#updateWanted();
    return () => {
      this.#runs -= 1;
      this.#updateWanted();
    };
  }

  #updateWanted() {
    const isIdle = this.#runs === 0 && this.#behind.size >= this.#calls.size;
    const wanted = this.#behind.size === 0 || !isIdle;
    if (wanted !== this.#wantsInput) {
      this.#wantsInput = wanted;
      this.#output.wantInput(wanted);
    }
  }

  // Input

  /**
   * Bytes of the core.
   *
   * @param {Uint8Array} chunk
   */
  receive(chunk) {
    if (this.#lost) return;
    for (const line of this.#splitter.receive(chunk)) this.#acceptLine(line);
  }

  /**
   * The core is gone: nothing is answered any more, and nothing can be sent.
   *
   * @param {CarError} error
   */
  lose(error) {
    if (this.#lost) return;
    for (const line of this.#splitter.receiveEnd()) this.#acceptLine(line);
    this.#lost = error;
    for (const call of [...this.#calls.values()]) this.#settle(call, error);
  }

  /**
   * @param {string} method
   * @param {AbortSignal | undefined} signal
   */
  #checkReady(method, signal) {
    if (signal?.aborted) throw cancelledHere(`${method} was aborted`, signal.reason);
    if (this.#lost) throw this.#lost;
    if (this.#output.isFull()) {
      const message = `too much waits to be read by the core; ${method} was not sent`;
      throw new CarError(message, { kind: 'overloaded', local: true });
    }
  }

  /**
   * @param {Call} call
   * @param {AbortSignal} signal
   */
  #cancelOnAbort(call, signal) {
    const onAbort = () => this.cancel(call, signal.reason);
    // One signal may well belong to many requests.
    setMaxListeners(0, signal);
    signal.addEventListener('abort', onAbort, { once: true });
    call.answered.then(() => signal.removeEventListener('abort', onAbort));
  }

  /** @param {import('./framing.js').Line} line */
  #acceptLine({ text, tooLong }) {
    if (tooLong) {
      this.#dropTooLong(text);
      return;
    }
    let message;
    try {
      message = JSON.parse(text);
    } catch {
      this.#handlers.onProblem(text.slice(0, REPORTED_CHARS), 'stdout');
      return;
    }
    this.#accept(message, text);
  }

  /**
   * @param {any} message
   * @param {string} text
   */
  #accept(message, text) {
    const { id, method } = message ?? {};
    const params = message?.params ?? {};
    const hasId = typeof id === 'number' || typeof id === 'string';
    if (typeof method === 'string') {
      if (hasId) this.#handlers.onRequest(id, method, params);
      else if (STREAMED.has(method)) this.#deliver(params, text.length);
      else this.#handlers.onNotification(method, params);
    } else if (hasId) {
      // An answer to nobody comes late, after its request was given up.
      const call = this.#calls.get(id);
      if (call) this.#settleWith(call, message);
    } else {
      this.#handlers.onProblem(text.slice(0, REPORTED_CHARS), 'stdout');
    }
  }

  /**
   * @param {any} params
   * @param {number} size
   */
  #deliver(params, size) {
    this.#calls.get(params.request_id)?.onEvent?.(params.event, size);
  }

  /** @param {string} prefix */
  #dropTooLong(prefix) {
    const call = this.#calls.get(Number(RESPONSE_ID.exec(prefix)?.[1]));
    if (call) {
      const message = `the answer to ${call.method} is longer than maxMessageBytes`;
      this.#settle(call, new CarError(message, { kind: 'message_too_large', local: true }));
      return;
    }
    this.#handlers.onProblem(`too long: ${prefix.slice(0, REPORTED_CHARS)}`, 'stdout');
    const [, id, method] = REQUEST.exec(prefix) ?? [];
    if (id !== undefined) {
      const message = `${method} is longer than maxMessageBytes of the app`;
      const data = { kind: 'message_too_large', retryable: false };
      this.respond(JSON.parse(id), { error: { code: 1025, message, data } });
    }
  }

  /**
   * @param {Call} call
   * @param {any} response
   */
  #settleWith(call, response) {
    const { error, result } = response;
    if (error !== undefined && error !== null) this.#settle(call, remoteError(error, call));
    else if (result !== undefined) this.#settle(call, undefined, result);
    else {
      const message = `the answer to ${call.method} has neither a result nor an error`;
      this.#settle(call, new CarError(message, { kind: 'malformed_message', local: true }));
    }
  }

  /**
   * @param {Call} call
   * @param {Error | undefined} error
   * @param {any} [result]
   */
  #settle(call, error, result) {
    if (call.settled) return;
    this.#calls.delete(call.id);
    if (error) call.reject(error);
    else call.resolve(result);
    this.setBehind(call, false);
  }
}

/**
 * @param {any} error
 * @param {Call} call
 */
function remoteError(error, call) {
  const data = typeof error.data === 'object' && error.data !== null ? error.data : {};
  const kind = typeof data.kind === 'string' ? data.kind : 'internal';
  const cause = kind === 'cancelled' ? call.cancelled?.reason : undefined;
  return new CarError(String(error.message), { kind, code: error.code, data, cause });
}

/** @param {Call} call */
function unconfirmed(call) {
  const message = `the core did not confirm that ${call.method} is cancelled`;
  return cancelledHere(message, call.cancelled?.reason);
}

/**
 * @param {string} message
 * @param {unknown} reason
 */
function cancelledHere(message, reason) {
  return new CarError(message, { kind: 'cancelled', local: true, cause: reason });
}
