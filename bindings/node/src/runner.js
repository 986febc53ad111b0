/** The app's side of `runner.run`: calls its function, cancels it, and answers exactly once. */

import { CarError, RunnerError } from './errors.js';
import { within } from './within.js';

/**
 * How long a runner may take to return after its run was cancelled, in milliseconds, before the
 * cancel is confirmed without it. The core waits a second.
 */
const CANCEL_GRACE_MS = 500;

const TOO_FAR_AHEAD = 'the runner is too far ahead of the core; await its `emit`';

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
 * Sends an event of a run and waits for nothing. Too far ahead, the run fails: beyond
 * `limits.runner_buffer_bytes` of events that the core has not passed on, or what it has not read.
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
    const endRun = this.#connection.beginRun();
    const outcome = await this.#outcome(this.runner, run, controller);
    endRun();
    this.#runs.delete(id);
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
  async #outcome(runner, run, controller) {
    const { signal } = controller;
    const state = { isOver: false, isTooFarAhead: false };
    const tooFarAhead = () => {
      state.isTooFarAhead = true;
      controller.abort(new CarError(TOO_FAR_AHEAD, { kind: 'overloaded', local: true }));
    };
    const emit = this.#emitter(run, signal, state, tooFarAhead);
    // Before the runner begins, which may be too far ahead in its first step.
    const unwanted = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    const running = (async () => runner(run, { emit, signal }))().then(
      (result) => this.#success(result),
      (error) => this.#failure(error, signal),
    );
    const aborted = unwanted.then(() => within(running, CANCEL_GRACE_MS));
    await Promise.race([running, aborted]);
    state.isOver = true;
    if (state.isTooFarAhead) {
      return failure('runner_failed', TOO_FAR_AHEAD, 1023, {
        cause: 'backpressure',
        retryable: false,
      });
    }
    return Promise.race([running, failure('cancelled', 'cancelled', -32800)]);
  }

  /**
   * @param {RunnerRun} run
   * @param {AbortSignal} signal
   * @param {{ isOver: boolean }} state
   * @param {() => void} tooFarAhead Fails the run, since what is not sent would be missing.
   * @returns {Emit}
   */
  #emitter(run, signal, state, tooFarAhead) {
    const isSendable = () => {
      if (state.isOver || signal.aborted) return false;
      if (this.#connection.isFull) tooFarAhead();
      return !signal.aborted;
    };
    /** @type {Promise<typeof NOBODY_LISTENS>} */
    const givenUp = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(NOBODY_LISTENS), { once: true });
    });
    /** @param {RunnerEvent} event */
    const send = async (event) => {
      const { call_id, parent_id } = run;
      const answer = await this.#connection.begin('runner.event', { call_id, event }).result;
      // The core has room, and so must whoever reads the stream in this program.
      await this.#connection.caughtUp(parent_id);
      return answer;
    };
    /** @type {EmitAndWait} */
    const emit = (event) => {
      if (!isSendable()) return Promise.resolve(NOBODY_LISTENS);
      const answer = Promise.race([send(event), givenUp]).catch((error) => {
        if (signal.aborted || error.local) return NOBODY_LISTENS;
        throw error;
      });
      // Whoever does not wait for it is not punished for what becomes of it.
      answer.catch(() => {});
      return answer;
    };
    /** @type {EmitNowait} */
    const nowait = (event) => {
      if (!isSendable()) return false;
      this.#connection.notify('runner.event', { call_id: run.call_id, event });
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
    return failure('runner_failed', `the runner threw ${nameOf(error)}`, 1023);
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

/** @param {unknown} error Anything, with getters that throw. */
function nameOf(error) {
  try {
    return error instanceof Error ? String(error.name) : typeof error;
  } catch {
    return 'something without a name';
  }
}
