/** The app's side of `policy.approve`: asks its function, and answers exactly once. */

import { CarError } from './errors.js';

/**
 * @typedef {import('./wire/index.js').PolicyApproveParams} PolicyApproveParams
 * @typedef {import('./wire/index.js').PolicyApproveResult} PolicyApproveResult
 */

/**
 * A function that says whether something may happen. If it throws, it may not.
 *
 * @callback Approve
 * @param {PolicyApproveParams} question What is to be approved, which rule asks, and why.
 * @param {{ signal: AbortSignal }} tools `signal` is aborted when no answer is wanted any more, and
 *   when the core is gone.
 * @returns {Promise<PolicyApproveResult | boolean> | PolicyApproveResult | boolean}
 */

/** The questions that are not answered yet. */
export class Approvals {
  /** @type {Map<import('./connection.js').RequestId, AbortController>} */
  #questions = new Map();
  #connection;
  #approve;
  #onError;

  /**
   * @param {import('./connection.js').Connection} connection
   * @param {Approve | undefined} approve
   * @param {(error: unknown) => void} onError Gets what it threw.
   */
  constructor(connection, approve, onError) {
    this.#connection = connection;
    this.#approve = approve;
    this.#onError = onError;
  }

  /**
   * Takes a `policy.approve` request.
   *
   * @param {import('./connection.js').RequestId} id
   * @param {PolicyApproveParams} question
   */
  async start(id, question) {
    if (!this.#approve) {
      const data = { kind: 'method_not_found' };
      const message = 'nobody in this program approves of anything';
      this.#connection.respond(id, { error: { code: -32601, message, data } });
      return;
    }
    const controller = new AbortController();
    this.#questions.set(id, controller);
    const { signal } = controller;
    const withdrawn = new Promise((resolve) => {
      signal.addEventListener('abort', () => resolve(undefined), { once: true });
    });
    const answer = await Promise.race([this.#answer(this.#approve, question, signal), withdrawn]);
    this.#questions.delete(id);
    const error = { code: -32800, message: 'cancelled', data: { kind: 'cancelled' } };
    this.#connection.respond(id, signal.aborted ? { error } : { result: answer });
  }

  /**
   * The core wants no answer any more; it still gets one.
   *
   * @param {import('./connection.js').RequestId} id
   */
  cancel(id) {
    const reason = new CarError('the core asks no more', { kind: 'cancelled', local: true });
    this.#questions.get(id)?.abort(reason);
  }

  /**
   * The core is gone.
   *
   * @param {CarError} reason
   */
  abandon(reason) {
    for (const controller of this.#questions.values()) controller.abort(reason);
  }

  /**
   * @param {Approve} approve
   * @param {PolicyApproveParams} question
   * @param {AbortSignal} signal
   * @returns {Promise<PolicyApproveResult>}
   */
  async #answer(approve, question, signal) {
    try {
      const answer = await approve(question, { signal });
      if (typeof answer === 'boolean') return { approved: answer };
      const { approved, reason } = answer;
      return { approved: approved === true, ...(typeof reason === 'string' && { reason }) };
    } catch (error) {
      if (!signal.aborted) this.#onError(error);
      return { approved: false, reason: "the app's approval threw" };
    }
  }
}
