/** The app's side of `runner.run`: calls its function, cancels it, and answers exactly once. */

import { CarError, RunnerError } from './errors.js';
import { within } from './within.js';

/**
 * How long a runner may take to return after its run was cancelled, in milliseconds, before the
 * cancel is confirmed without it. The core waits a second.
 */
const CANCEL_GRACE_MS = 500;

const NOBODY_LISTENS = Object.freeze({ emitted: false, closed: true });

/**
 * @typedef {import('./wire/index.js').RunnerRunParams} RunnerRun
 * @typedef {import('./wire/index.js').RunnerEvent} RunnerEvent
 * @typedef {import('./wire/index.js').RunnerEventResult} RunnerEventResult
 * @typedef {import('./wire/index.js').RunnerResult} RunnerResult
 */

/**
 * Sends an event of a run.
 *
 * @callback EmitAndWait
 * @param {RunnerEvent} event
 * @returns {Promise<RunnerEventResult>} Resolves once the core has room for more, so a runner that
 *   awaits it keeps the pace of whoever reads. After `closed` it should stop. Rejects when the core
 *   refuses the event.
 */

/**
 * Sends an event of a run and waits for nothing. Beyond `limits.runner_buffer_bytes` of unread
 * events the core fails the run.
 *
 * @callback EmitNowait
 * @param {RunnerEvent} event
 * @returns {boolean} Whether it was sent; false once nobody listens.
 */

/** @typedef {EmitAndWait & { nowait: EmitNowait }} Emit */

/**
 * A function that runs a model.
 *
 * @callback Runner
 * @param {RunnerRun} run What is to be run; `run.request` has exactly what the client set.
 * @param {{ emit: Emit, signal: AbortSignal }} tools `signal` is aborted when the result is not
 *   wanted any more, and when the core is gone.
 * @returns {Promise<RunnerResult | string | void> | RunnerResult | string | void} What its events
 *   lacked: a text, or the wire's result.
 */

/** The runs that are under way. */
export class RunnerRuns {
  /** @type {Runner | undefined} */
  runner;
  /** @type {Map<import('./connection.js').RequestId, AbortController>} */
  #runs = new Map();
  #connection;
  #onError;

  /**
   * @param {import('./connection.js').Connection} connection
   * @param {(error: unknown) => void} onError Gets what a runner threw that is no RunnerError.
   */
  constructor(connection, onError) {
    this.#connection = connection;
    this.#onError = onError;
  }

  /**
   * Takes a `runner.run` request.
   *
   * @param {import('./connection.js').RequestId} id
   * @param {RunnerRun} run
   */
  async start(id, run) {
    if (!this.runner) {
      this.#connection.respond(id, failure('method_not_found', 'no runner is registered', -32601));
      return;
    }
    const controller = new AbortController();
    this.#runs.set(id, controller);
    const outcome = await this.#outcome(this.runner, run, controller);
    this.#runs.delete(id);
    // Whatever the runner still does, its run is over.
    controller.abort(new CarError('the run has ended', { kind: 'closed', local: true }));
    this.#respond(id, outcome);
  }

  /**
   * The core does not want a run any more; it is still answered.
   *
   * @param {import('./connection.js').RequestId} id
   */
  cancel(id) {
    const reason = new CarError('the core cancelled the run', { kind: 'cancelled', local: true });
    this.#runs.get(id)?.abort(reason);
  }

  /**
   * The core is gone.
   *
   * @param {CarError} reason
   */
  abandon(reason) {
    for (const controller of this.#runs.values()) controller.abort(reason);
  }

  /**
   * @param {Runner} runner
   * @param {RunnerRun} run
   * @param {AbortController} controller
   * @returns {Promise<{ result: unknown } | { error: object }>}
   */
  async #outcome(runner, run, { signal }) {
    const emit = this.#emitter(run.call_id, signal);
    const running = (async () => runner(run, { emit, signal }))().then(
      (result) => this.#success(result),
      (error) => this.#failure(error, signal),
    );
    const aborted = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(within(running, CANCEL_GRACE_MS)));
    });
    await Promise.race([running, aborted]);
    return Promise.race([running, failure('cancelled', 'cancelled', -32800)]);
  }

  /**
   * @param {string} callId
   * @param {AbortSignal} signal
   * @returns {Emit}
   */
  #emitter(callId, signal) {
    /** @type {EmitAndWait} */
    const emit = (event) => {
      if (signal.aborted) return Promise.resolve(NOBODY_LISTENS);
      const { result } = this.#connection.begin('runner.event', { call_id: callId, event });
      const answer = result.catch((error) => {
        if (signal.aborted || error.local) return NOBODY_LISTENS;
        throw error;
      });
      // Whoever does not wait for it is not punished for what becomes of it.
      answer.catch(() => {});
      return answer;
    };
    /** @type {EmitNowait} */
    const nowait = (event) => {
      if (signal.aborted || this.#connection.isFull) return false;
      this.#connection.notify('runner.event', { call_id: callId, event });
      return true;
    };
    return Object.assign(emit, { nowait });
  }

  /** @param {unknown} result */
  #success(result) {
    if (result === undefined || result === null) return { result: {} };
    if (typeof result === 'string') return { result: { text: result } };
    if (typeof result === 'object' && !Array.isArray(result)) return { result };
    return this.#failure(new TypeError('a runner returns nothing, a text or a result'));
  }

  /**
   * @param {unknown} error
   * @param {AbortSignal} [signal]
   */
  #failure(error, signal) {
    if (error instanceof RunnerError) {
      const { status, retryAfterMs, retryable } = error;
      const data = { status, retry_after_ms: retryAfterMs, retryable };
      return failure(error.kind, error.message, 1023, data);
    }
    if (signal?.aborted) return failure('cancelled', 'cancelled', -32800);
    this.#onError(error);
    // The text of a foreign error may hold a key or a path: it stays in this program.
    const name = error instanceof Error ? error.name : typeof error;
    return failure('runner_failed', `the runner threw ${name}`, 1023);
  }

  /**
   * @param {import('./connection.js').RequestId} id
   * @param {{ result: unknown } | { error: object }} outcome
   */
  #respond(id, outcome) {
    try {
      this.#connection.respond(id, outcome);
    } catch (error) {
      // The result holds what JSON cannot say.
      this.#connection.respond(id, this.#failure(error));
    }
  }
}

/**
 * @param {string} kind
 * @param {string} message
 * @param {number} code
 * @param {object} [data]
 */
function failure(kind, message, code, data) {
  return { error: { code, message, data: { kind, ...data } } };
}
