'use strict';

// CommonJS, so that `import` and `require` of this package see the same classes.

/**
 * A request failed, or car-rpc as a whole.
 *
 * `kind` is the contract. Where `local` is false the core sent the error and `kind` is one of the
 * protocol's error table. Where it is true this package made it, and `kind` is one of:
 *
 * - `cancelled`: aborted before it was sent, or the core did not confirm the cancel in time
 * - `closed`: `close()` was called
 * - `overloaded`: too much waits to be read by the core
 * - `message_too_large`: the answer is longer than `maxMessageBytes`
 * - `malformed_message`: the answer is no JSON-RPC response
 * - `stream_overflow`: too many events of a stream were not read
 * - `process_ended`, `start_failed`, `start_timeout`: see {@link CarProcessError}
 */
class CarError extends Error {
  /**
   * @param {string} message Text for people.
   * @param {object} options
   * @param {string} options.kind What happened.
   * @param {number} [options.code] JSON-RPC error code; only the core's errors have one.
   * @param {Record<string, unknown>} [options.data] The core's `error.data`.
   * @param {boolean} [options.local] Whether this package made the error.
   * @param {unknown} [options.cause] What it comes from; of a cancel the signal's reason.
   */
  constructor(message, { kind, code, data = {}, local = false, cause }) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'CarError';
    /** What happened. */
    this.kind = kind;
    /** JSON-RPC error code; only the core's errors have one. */
    this.code = code;
    /** The core's `error.data`, such as `path`, `model`, `retry_after_ms` or `partial`. */
    this.data = data;
    /** Whether the same request may succeed when it is sent again. */
    this.retryable = data.retryable === true;
    /** Whether this package made the error, and not the core. */
    this.local = local;
  }
}

/** The process could not be started, or is gone; its requests have no answer. */
class CarProcessError extends CarError {
  /**
   * @param {string} message Text for people.
   * @param {object} options
   * @param {'process_ended' | 'start_failed' | 'start_timeout'} options.kind
   * @param {number | null} [options.exitCode]
   * @param {NodeJS.Signals | null} [options.signal]
   * @param {string} [options.stderr]
   * @param {unknown} [options.cause]
   */
  constructor(message, { kind, exitCode = null, signal = null, stderr = '', cause }) {
    super(message, { kind, local: true, cause });
    this.name = 'CarProcessError';
    /** How the process ended; null when a signal ended it, or it did not run. */
    this.exitCode = exitCode;
    /** The signal that ended it, or null. */
    this.signal = signal;
    /** The last 64 KiB of what it wrote to standard error. */
    this.stderr = stderr;
  }
}

/** Thrown by a runner to fail its run with a kind that the core understands. */
class RunnerError extends Error {
  /**
   * @param {string} kind A kind of the protocol's error table, such as `runner_declined`,
   *   `unauthorized`, `rate_limited` or `provider_error`.
   * @param {string} message Text for people. It goes to the core, its log and the app: no secrets.
   * @param {object} [options]
   * @param {number} [options.status] HTTP status of the provider.
   * @param {number} [options.retryAfterMs] How long the provider asked to wait, in milliseconds.
   * @param {boolean} [options.retryable] Whether the same request may succeed later.
   * @param {unknown} [options.cause] What it comes from; stays in this process.
   */
  constructor(kind, message, { status, retryAfterMs, retryable, cause } = {}) {
    super(message, cause === undefined ? undefined : { cause });
    this.name = 'RunnerError';
    this.kind = kind;
    this.status = status;
    this.retryAfterMs = retryAfterMs;
    this.retryable = retryable;
  }
}

module.exports = { CarError, CarProcessError, RunnerError };
