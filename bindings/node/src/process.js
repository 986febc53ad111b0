import { spawn } from 'node:child_process';

import { CarProcessError } from './errors.js';
import { killAtExit, killTree, spawnOptions } from './kill.js';
import { Tail } from './tail.js';
import { within } from './within.js';

/** How much of standard error is kept, in bytes. */
export const STDERR_TAIL_BYTES = 64 * 1024;

/**
 * Bytes that wait to be read by the core, beyond which no request is sent. The core never stops
 * reading for long, so this is a core that hangs.
 */
export const MAX_UNSENT_BYTES = 64 * 1024 * 1024;

/** How long the core may take to leave once its input has ended, in milliseconds. */
const LEAVE_TIMEOUT_MS = 3000;

/** How long it may take after SIGTERM. */
const TERMINATE_TIMEOUT_MS = 2000;

/** How long the system may take after SIGKILL, and an ended process's pipes to be read. */
const KILL_TIMEOUT_MS = 1000;

/** How much of standard error goes into an error's message, in characters. */
const QUOTED_CHARS = 1000;

/** The core's process: its pipes, its end, and its last words. */
export class CoreProcess {
  #child;
  #file;
  #stderr = new Tail(STDERR_TAIL_BYTES);
  /** @type {Error | undefined} */
  #spawnError;
  /** @type {Promise<void> | undefined} */
  #leaving;
  /** @type {() => void} */
  #finish = () => {};
  /** Resolves when the process is gone and what it wrote is read. Never rejects. */
  ended;

  /**
   * @param {import('./command.js').Command} command
   * @param {NodeJS.ProcessEnv} env
   * @param {(chunk: Buffer) => void} onData Gets what it writes to standard output.
   * @throws {CarProcessError} It cannot be started at all.
   */
  constructor({ file, args }, env, onData) {
    this.#file = file;
    this.ended = new Promise((resolve) => {
      this.#finish = () => resolve(undefined);
    });
    this.#child = spawnPiped(file, args, env);
    const { stdin, stdout, stderr } = this.#child;
    this.#child.on('error', (error) => this.#failed(error));
    this.#child.once('exit', () => this.#exited());
    this.#child.once('close', this.#finish);
    // A core that is gone is noticed by its end; EPIPE adds nothing to that.
    for (const pipe of [stdin, stdout, stderr]) pipe?.on('error', () => {});
    // Without file descriptors for them there are no pipes, and an error follows.
    if (!stdin) return;
    stdin.once('close', () => this.#closed());
    stdout.once('end', () => this.#closed());
    stdout.on('data', onData);
    stderr.on('data', (chunk) => this.#stderr.add(chunk));
    killAtExit(this.#child);
  }

  /** Process id, or undefined when it could not be started. */
  get pid() {
    return this.#child.pid;
  }

  /** How it ended, or why it never began. */
  get error() {
    if (this.#spawnError) return startError(this.#file, this.#spawnError);
    const { exitCode, signalCode } = this.#child;
    const stderr = this.#stderr.toString();
    const how = signalCode === null ? `exit code ${exitCode}` : signalCode;
    const quoted = stderr.trim().slice(-QUOTED_CHARS);
    return new CarProcessError(`car-rpc ended (${how})${quoted && `: ${quoted}`}`, {
      kind: 'process_ended',
      exitCode,
      signal: signalCode,
      stderr,
    });
  }

  /** The last 64 KiB of what it wrote to standard error. */
  get stderr() {
    return this.#stderr.toString();
  }

  /** @param {string} line */
  write(line) {
    if (this.#child.stdin?.writable) this.#child.stdin.write(line);
  }

  isFull() {
    return this.#child.stdin?.writableLength > MAX_UNSENT_BYTES;
  }

  /** @param {boolean} wanted Whether standard output is read. */
  wantInput(wanted) {
    if (wanted || this.#exitedAlready) this.#child.stdout?.resume();
    else this.#child.stdout?.pause();
  }

  /** Sees to it that the process ends: by the end of its input, by SIGTERM, by SIGKILL. Bounded. */
  leave() {
    this.#leaving ??= this.#leave();
    return this.#leaving;
  }

  async #leave() {
    this.wantInput(true);
    this.#child.stdin?.end();
    if (await within(this.ended, LEAVE_TIMEOUT_MS)) return;
    killTree(this.#child, 'SIGTERM');
    if (await within(this.ended, TERMINATE_TIMEOUT_MS)) return;
    await this.kill();
  }

  /** Kills the process and what it started. Bounded. */
  async kill() {
    killTree(this.#child, 'SIGKILL');
    await within(this.ended, KILL_TIMEOUT_MS);
    this.#release();
  }

  get #exitedAlready() {
    return this.#child.exitCode !== null || this.#child.signalCode !== null;
  }

  /** @param {Error} error */
  #failed(error) {
    // Errors of signals to a process that is gone come here, too.
    if (this.#child.pid !== undefined) return;
    this.#spawnError = error;
    this.#finish();
  }

  /** The process is gone. What it started may still hold its pipes. */
  async #exited() {
    this.wantInput(true);
    this.#child.stdin.destroy();
    if (!(await within(this.ended, KILL_TIMEOUT_MS))) await this.kill();
  }

  /** One of its pipes is closed, so it is of no use any more. */
  async #closed() {
    if (!(await within(this.ended, LEAVE_TIMEOUT_MS))) await this.leave();
  }

  /** Waits for nothing any more. */
  #release() {
    for (const pipe of this.#child.stdio ?? []) pipe?.destroy();
    this.#child.unref();
    this.#finish();
  }
}

/**
 * @param {string} file
 * @param {readonly string[]} args
 * @param {NodeJS.ProcessEnv} env
 */
function spawnPiped(file, args, env) {
  try {
    return spawn(file, args, { ...spawnOptions, env, stdio: 'pipe' });
  } catch (error) {
    throw startError(file, /** @type {Error} */ (error));
  }
}

/**
 * @param {string} file
 * @param {Error} error
 */
function startError(file, error) {
  const missing = 'code' in error && error.code === 'ENOENT';
  const hint = missing
    ? 'there is no such program. Install car-rpc so that it is on the PATH, or say where it is: ' +
      'the option `command` of Car.start, or the environment variable CAR_RPC_COMMAND'
    : error.message;
  return new CarProcessError(`cannot start ${JSON.stringify(file)}: ${hint}`, {
    kind: 'start_failed',
    cause: error,
  });
}
