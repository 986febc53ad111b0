/** One core: its process, the connection with it, and how both begin and end. */

import { inspect } from 'node:util';

import { Approvals } from './approvals.js';
import { resolveCommand } from './command.js';
import { Connection } from './connection.js';
import { CarError, CarProcessError } from './errors.js';
import { CoreProcess } from './process.js';
import { RunnerRuns } from './runner.js';
import { VERSION } from './version.js';
import { within } from './within.js';

const PROTOCOL_VERSION = 1;

/** How long the process may take to start and to introduce itself, in milliseconds. */
const START_TIMEOUT_MS = 30_000;

/** The longest time that timers can wait, in milliseconds; longer ones would not wait at all. */
const MAX_TIMEOUT_MS = 2 ** 31 - 1;

/** Longest message that is accepted from the core, in bytes. */
const MAX_MESSAGE_BYTES = 256 * 1024 * 1024;

/** How long the core may take to answer `shutdown`, in milliseconds. */
const SHUTDOWN_TIMEOUT_MS = 5000;

/**
 * @typedef {import('./wire/index.js').LogParams} LogEntry
 * @typedef {'debug' | 'info' | 'warning' | 'error'} LogLevel
 *
 * @typedef {object} Cassette
 * @property {string} file
 * @property {'record' | 'replay' | 'auto' | 'strict'} [mode] `record` runs all requests and writes
 *   them down, `replay` (the default) runs none, `auto` runs and adds those that are not there,
 *   `strict` wants all that are there, once and in their order, or the exit code is 5.
 * @property {'fast' | 'timed'} [speed] Whether what is replayed takes the time that it took; default
 *   `fast`.
 *
 * @typedef {object} StartOptions
 * @property {string | readonly string[]} [command] Path of the car-rpc program, or a whole command
 *   line such as `['python3', '-m', 'car_rpc', 'serve']`. Default: the environment's
 *   `CAR_RPC_COMMAND` (a path, or a JSON array), else `car-rpc` on the PATH.
 * @property {readonly string[]} [args] Further options of `car-rpc serve`.
 * @property {NodeJS.ProcessEnv} [env] Added to this program's environment; undefined removes.
 * @property {string} [stateDir] Where the event log and the registry are kept. Default: `$CAR_HOME`
 *   or `~/.car`.
 * @property {string} [modelsDir] Where model files lie. Default: `models` in the same place.
 * @property {Cassette} [cassette] Answers from a recording of earlier requests, or makes one.
 * @property {readonly string[]} [allowedPaths] Roots below which message content may name files.
 * @property {{ name: string, version?: string }} [clientInfo] Who the app is, for the core's log.
 * @property {AbortSignal} [signal] Gives up starting. Has no effect once `start` has returned.
 * @property {number} [timeoutMs] How long starting may take, with the registration of `runner`;
 *   default 30000.
 * @property {(entry: LogEntry) => void} [onLog] Gets the core's log, and what this package ignored
 *   or a runner threw.
 * @property {LogLevel} [logLevel] Least severe level for `onLog`; default `info`.
 * @property {import('./runner.js').Runner} [runner] Runs delegated models; see `registerRunner`.
 * @property {import('./approvals.js').Approve} [approve] Says whether what rules want approved may
 *   happen; see `policy.set`. Without it, it may not.
 * @property {number} [maxMessageBytes] Longest message accepted from the core; default 256 MiB.
 */

/** A core that runs, or is being started. */
export class Session {
  /** @type {Promise<void> | undefined} */
  #closing;
  #process;
  #onLog;
  connection;
  runs;
  approvals;

  /**
   * Starts the process and waits for nothing.
   *
   * @param {StartOptions} options
   * @throws {TypeError} The command is wrong.
   * @throws {CarProcessError} It cannot be started.
   */
  constructor(options) {
    const env = { ...process.env, ...options.env };
    const command = resolveCommand(options.command, serveArguments(options), env);
    this.#onLog = options.onLog;
    this.#process = new CoreProcess(command, env, (chunk) => this.connection.receive(chunk));
    const handlers = {
      onRequest: this.#takeRequest.bind(this),
      onNotification: this.#takeNotification.bind(this),
      onProblem: (/** @type {string} */ message, /** @type {string} */ source) =>
        this.#log('warning', message, source),
    };
    const maxMessageBytes = options.maxMessageBytes ?? MAX_MESSAGE_BYTES;
    this.connection = new Connection(this.#process, handlers, maxMessageBytes);
    this.runs = new RunnerRuns(this.connection, (error) => this.#logThrown(error, 'runner'));
    this.approvals = new Approvals(this.connection, options.approve, (error) =>
      this.#logThrown(error, 'approve'),
    );
    this.ended = this.#process.ended.then(() => {
      const { error } = this.#process;
      this.#lose(error);
      return error;
    });
  }

  /** Process id of the core. */
  get pid() {
    return this.#process.pid;
  }

  /**
   * Introduces the app, and its runner, if it has one.
   *
   * @param {StartOptions} options
   * @returns {Promise<import('./wire/index.js').InitializeResult>}
   */
  async initialize({ signal, timeoutMs = START_TIMEOUT_MS, ...options }) {
    const answer = this.connection.request('initialize', {
      protocol_version: PROTOCOL_VERSION,
      client_info: options.clientInfo ?? { name: 'car-rpc-node', version: VERSION },
      process_id: process.pid,
      allowed_paths: options.allowedPaths ?? [],
      capabilities: {
        ...(this.#onLog && { log: { level: options.logLevel ?? 'info' } }),
        ...(options.approve && { approve: true }),
      },
    });
    // `initialize` is never cancelled on the wire: whoever gives up ends the process.
    const onAbort = () => this.#lose(startAborted(signal));
    signal?.addEventListener('abort', onAbort);
    const onTimeout = () => this.#lose(this.#startTimeout(timeoutMs));
    const timer = setTimeout(onTimeout, Math.min(timeoutMs, MAX_TIMEOUT_MS));
    try {
      if (signal?.aborted) throw startAborted(signal);
      const server = await answer;
      if (options.runner) await this.registerRunner(options.runner);
      return server;
    } finally {
      clearTimeout(timer);
      signal?.removeEventListener('abort', onAbort);
    }
  }

  /**
   * @param {import('./runner.js').Runner} runner
   * @param {import('./wire/index.js').RunnerRegisterParams} [params]
   * @returns {Promise<import('./wire/index.js').RunnerRegisterResult>}
   */
  registerRunner(runner, params = {}) {
    // The first run may come right behind the answer.
    this.runs.runner = runner;
    return this.connection.request('runner.register', params);
  }

  /** Kills the process, which has done nothing yet that could be lost. Bounded. */
  async abandon() {
    this.#lose(closed());
    await this.#process.kill();
  }

  /** Ends everything; see `Car.close`. */
  close() {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  async #close() {
    const shutdown = this.connection.begin('shutdown', {});
    await within(shutdown.answered, SHUTDOWN_TIMEOUT_MS);
    this.connection.notify('exit', {});
    this.#lose(closed());
    await this.#process.leave();
  }

  /** @param {CarError} error */
  #lose(error) {
    this.connection.lose(error);
    this.runs.abandon(error);
    this.approvals.abandon(error);
  }

  /** @type {import('./connection.js').Handlers['onRequest']} */
  #takeRequest(id, method, params) {
    if (method === 'runner.run') {
      this.runs.start(id, params);
    } else if (method === 'policy.approve') {
      this.approvals.start(id, params);
    } else if (method === 'ping') {
      this.connection.respond(id, { result: {} });
    } else {
      const data = { kind: 'method_not_found' };
      const error = { code: -32601, message: `method not found: ${method}`, data };
      this.connection.respond(id, { error });
    }
  }

  /** @type {import('./connection.js').Handlers['onNotification']} */
  #takeNotification(method, params) {
    if (method === '$/cancelRequest') {
      this.runs.cancel(params.id);
      this.approvals.cancel(params.id);
    } else if (method === 'log') this.#log(params.level, params.message, params.source);
  }

  /**
   * @param {unknown} error
   * @param {string} source
   */
  #logThrown(error, source) {
    this.#log('error', shown(error), source);
  }

  /**
   * @param {string} level
   * @param {string} message
   * @param {string} source
   */
  #log(level, message, source) {
    try {
      this.#onLog?.({ level, message, source });
    } catch (error) {
      // Whoever listens to the log must not be able to break the connection.
      process.emitWarning(error instanceof Error ? error : shown(error));
    }
  }

  /** @param {number} timeoutMs */
  #startTimeout(timeoutMs) {
    return new CarProcessError(`car-rpc did not start within ${timeoutMs} ms`, {
      kind: 'start_timeout',
      stderr: this.#process.stderr,
    });
  }
}

/** @param {StartOptions} options */
function serveArguments({ stateDir, modelsDir, cassette, args = [] }) {
  const options = {
    '--state-dir': stateDir,
    '--models-dir': modelsDir,
    '--cassette': cassette?.file,
    '--cassette-mode': cassette?.mode,
    '--cassette-speed': cassette?.speed,
  };
  const given = Object.entries(options).filter(([, value]) => value !== undefined);
  return [.../** @type {string[]} */ (given.flat()), ...args];
}

/** @param {AbortSignal | undefined} signal */
export function startAborted(signal) {
  const cause = signal?.reason;
  return new CarError('starting was aborted', { kind: 'cancelled', local: true, cause });
}

function closed() {
  return new CarError('this car-rpc was closed', { kind: 'closed', local: true });
}

/** @param {unknown} thrown Anything, with an `inspect` of its own that throws. */
function shown(thrown) {
  try {
    return inspect(thrown);
  } catch {
    return 'something that cannot be shown';
  }
}
