/**
 * Plays the client of a dialogue through the public API: what the client says becomes calls, and
 * what the core says is waited for where the API shows it. `fake_core.py` judges the wire.
 */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

import { Car, CarError, RunnerError } from '../../index.js';
import { REPOSITORY, deferred } from './helpers.js';

const VIRTUAL = join(REPOSITORY, '.venv/bin/python');
const PYTHON = process.env.PYTHON ?? (existsSync(VIRTUAL) ? VIRTUAL : 'python3');
const CONFORMANCE = join(REPOSITORY, 'spec/conformance');

/** @typedef {Record<string, any>} Json */

/** How methods of the wire are called. Any other is called with `car.request`. */
const CALLS = /** @type {Record<string, (car: Car, params: any) => Promise<unknown>>} */ ({
  embed: (car, params) => car.embed(params),
  tokenize: (car, params) => car.tokenize(params),
  detokenize: (car, params) => car.detokenize(params),
  transcribe: (car, params) => car.transcribe(params),
  'models.list': (car, params) => car.models.list(params),
  'models.get': (car, params) => car.models.get(params),
  'models.register': (car, params) => car.models.register(params),
  'models.unregister': (car, params) => car.models.unregister(params),
  'eventlog.query': (car, params) => car.eventlog.query(params),
  'eventlog.verify': (car) => car.eventlog.verify(),
  'eventlog.purge': (car, params) => car.eventlog.purge(params),
  'eventlog.retention': (car, params) => car.eventlog.retention(params),
  'runner.unregister': (car) => car.unregisterRunner(),
});

/**
 * A run that the scripted runner has been given.
 *
 * @typedef {object} Run
 * @property {Json} params
 * @property {import('../../index.js').Emit} emit
 * @property {AbortSignal} signal
 * @property {boolean} [isAnswered] Whether the dialogue has answered it.
 * @property {ReturnType<typeof deferred<any>>} outcome
 */

export class Dialogue {
  /** @type {Map<string, any>} What the variables stand for. */
  #variables;
  /** @type {Map<string, { promise: Promise<any>, stream?: any, controller: AbortController }>} */
  #calls = new Map();
  /** @type {Map<string, Run>} */
  #runs = new Map();
  /** @type {Set<string>} Requests of the core that the package answers by itself. */
  #answered = new Set();
  /** @type {Run[]} */
  #newRuns = [];
  #runArrived = new EventTarget();
  /** @type {Promise<Car> | undefined} */
  #starting;
  /** @type {Car | undefined} */
  #car;
  #hasRunner = false;
  #exitCode = 0;

  /** @param {string} name Of its file, without the ending. */
  constructor(name) {
    this.path = join(CONFORMANCE, 'dialogues', `${name}.ndjson`);
    const [head, ...steps] = readFileSync(this.path, 'utf8').trimEnd().split('\n').map(parse);
    this.head = /** @type {Json} */ (head);
    this.steps = /** @type {Json[]} */ (steps);
    this.#variables = new Map(Object.entries(this.head.examples ?? {}));
  }

  /** Whether it tests bindings, which speak one message per line. */
  get isForClients() {
    const { sides = ['client'], framings = ['ndjson'] } = this.head;
    return sides.includes('client') && framings.includes('ndjson');
  }

  /** Plays it to the end; the fake core must agree. */
  async play() {
    if (this.head.handshake ?? true) await this.#start('$initialize');
    try {
      for (const step of this.steps) await this.#perform(step);
    } catch (error) {
      await this.#car?.close();
      const said = (await this.#car?.ended)?.stderr;
      throw said ? new Error(said, { cause: error }) : error;
    }
    // Where starting failed as it should, nobody is left to be asked.
    if (!this.#car) return;
    await this.#car.close();
    const { exitCode, stderr } = await this.#car.ended;
    assert.equal(exitCode, this.#exitCode, stderr);
  }

  /** @param {string} id */
  #start(id) {
    const starting = Car.start({
      command: [PYTHON, join(CONFORMANCE, 'fake_core.py'), this.path],
      args: this.head.arguments,
    });
    this.#starting = starting;
    this.#remember(
      id,
      starting.then((car) => {
        this.#car = car;
        return car.server;
      }),
    );
    return starting;
  }

  get #started() {
    assert.ok(this.#car, 'the dialogue begins with initialize');
    return this.#car;
  }

  /** @param {Json} step */
  async #perform(step) {
    if ('client' in step) this.#say(step.client);
    else if ('core' in step) await this.#hear(step.core);
    else if ('unordered' in step) {
      for (const each of step.unordered.flat()) await this.#perform(each);
    } else if ('exit' in step) {
      this.#exitCode = step.exit;
      if (this.#car) await this.#car.ended;
      else await assert.rejects(Promise.resolve(this.#starting), { exitCode: step.exit });
    } else {
      const known = ['core_bytes', 'core_frame', 'never'];
      assert.ok(
        known.some((kind) => kind in step),
        `no binding can do ${JSON.stringify(step)}`,
      );
    }
  }

  // What the client says

  /** @param {Json} message */
  #say(message) {
    const { id, method, params = {} } = message;
    if (method === 'initialize') this.#start(id);
    else if (method === 'generate') this.#stream(id, 'generate', this.#fill(params));
    else if (method === 'replay.run') this.#stream(id, 'replay', this.#fill(params));
    else if (method === '$/cancelRequest') this.#call(params.id).controller.abort('dialogue');
    else if (method === 'runner.register') this.#register(id, this.#fill(params));
    else if (method === 'runner.event') this.#emit(id, params);
    else if (method === 'shutdown')
      this.#remember(
        id,
        this.#started.close().then(() => null),
      );
    else if (method !== undefined && method !== 'exit')
      this.#request(id, method, this.#fill(params));
    else if (method === undefined && !this.#answered.has(id)) this.#answerRun(message);
  }

  /**
   * @param {string} id
   * @param {'generate' | 'replay'} call
   * @param {any} params
   */
  #stream(id, call, params) {
    const controller = new AbortController();
    const stream = this.#started[call]({ stream: false, ...params }, controller);
    this.#calls.set(id, { promise: stream.result, stream, controller });
  }

  /**
   * @param {string} id
   * @param {string} method
   * @param {any} params
   */
  #request(id, method, params) {
    const call = CALLS[method];
    const controller = new AbortController();
    const promise = call
      ? call(this.#started, params)
      : this.#started.request(method, params, controller);
    this.#remember(id, promise, controller);
  }

  /**
   * @param {string} id
   * @param {any} params
   */
  #register(id, params) {
    this.#hasRunner = true;
    const promise = this.#started.registerRunner((run, { emit, signal }) => {
      const outcome = /** @type {ReturnType<typeof deferred<any>>} */ (deferred());
      this.#newRuns.push({ params: run, emit, signal, outcome });
      this.#runArrived.dispatchEvent(new Event('run'));
      return outcome.promise;
    }, params);
    this.#remember(id, promise);
  }

  /**
   * @param {string | undefined} id
   * @param {any} params
   */
  #emit(id, params) {
    const callId = this.#fill(params.call_id);
    const run = [...this.#runs.values()].find((each) => each.params.call_id === callId);
    assert.ok(run, `a run ${callId}`);
    const event = this.#fill(params.event);
    if (id === undefined) assert.ok(run.emit.nowait(event));
    else this.#remember(id, run.emit(event));
  }

  /** @param {Json} message */
  #answerRun({ id, result, error }) {
    const run = this.#runs.get(id);
    assert.ok(run, `a run ${id}`);
    run.isAnswered = true;
    if (!error) run.outcome.resolve(this.#fill(result));
    else if (run.signal.aborted) run.outcome.reject(run.signal.reason);
    else {
      const {
        kind = 'runner_failed',
        status,
        retry_after_ms,
        retryable,
      } = this.#fill(error.data ?? {});
      const options = { status, retryAfterMs: retry_after_ms, retryable };
      run.outcome.reject(new RunnerError(kind, this.#fill(error.message), options));
    }
  }

  // What the core says

  /** @param {Json} message */
  async #hear(message) {
    const { id, method, params } = message;
    if (method === 'generate.event') await this.#hearEvent(params);
    else if (method === 'runner.run' && this.#hasRunner) await this.#hearRun(id, params);
    else if (method === '$/cancelRequest') await this.#hearCancel(params.id);
    else if (method !== undefined && id !== undefined) this.#answered.add(id);
    else if (method === undefined && id !== null) await this.#hearAnswer(message);
  }

  /** @param {Json} params */
  async #hearEvent({ request_id, event }) {
    const { stream, controller } = this.#call(request_id);
    // Who aborts gets no more events.
    if (controller.signal.aborted) return;
    const { value } = await stream.next();
    this.#match(event, value);
  }

  /**
   * @param {string} id
   * @param {Json} params
   */
  async #hearRun(id, params) {
    if (this.#newRuns.length === 0) await once(this.#runArrived, 'run');
    const run = /** @type {Run} */ (this.#newRuns.shift());
    this.#runs.set(id, run);
    this.#match(params, run.params);
  }

  /** @param {string} id */
  async #hearCancel(id) {
    const { signal, isAnswered } = /** @type {Run} */ (this.#runs.get(id));
    // What comes for a run that is over is ignored.
    if (!signal.aborted && !isAnswered) await once(signal, 'abort');
  }

  /** @param {Json} message */
  async #hearAnswer({ id, result, error }) {
    const { promise } = this.#call(id);
    if (!error) {
      this.#match(result, await promise);
      return;
    }
    await assert.rejects(promise, (reason) => {
      assert.ok(reason instanceof CarError && !reason.local);
      const { code, message, data } = reason;
      this.#match(error, { code, message, data });
      return true;
    });
  }

  /**
   * @param {string} id
   * @param {Promise<any>} promise
   */
  #remember(id, promise, controller = new AbortController()) {
    promise.catch(() => {});
    this.#calls.set(id, { promise, controller });
  }

  /** @param {string} id */
  #call(id) {
    const call = this.#calls.get(id);
    assert.ok(call, `a request ${id}`);
    return call;
  }

  // Patterns

  /**
   * @param {any} pattern
   * @returns {any} What it says, with the values of its variables.
   */
  #fill(pattern) {
    if (Array.isArray(pattern)) return pattern.map((each) => this.#fill(each));
    if (typeof pattern === 'object' && pattern !== null) {
      const members = Object.entries(pattern).filter(([, value]) => value !== '$absent');
      return Object.fromEntries(members.map(([key, value]) => [key, this.#fill(value)]));
    }
    if (typeof pattern !== 'string') return pattern;
    if (isVariable(pattern)) return this.#variables.get(pattern.slice(1));
    return pattern.startsWith('$$') ? pattern.slice(1) : pattern;
  }

  /**
   * @param {any} pattern
   * @param {any} value
   */
  #match(pattern, value, path = '$') {
    if (pattern === '$_') return;
    if (Array.isArray(pattern)) {
      assert.equal(value?.length, pattern.length, `${path}.length`);
      pattern.forEach((each, index) => this.#match(each, value[index], `${path}[${index}]`));
    } else if (typeof pattern === 'object' && pattern !== null) {
      assert.equal(typeof value, 'object', path);
      for (const [key, each] of Object.entries(pattern)) {
        if (each === '$absent') assert.ok(!(key in value), `${path}.${key} is absent`);
        else this.#match(each, value[key], `${path}.${key}`);
      }
    } else if (isVariable(pattern) && this.#calls.has(pattern)) {
      // The package numbers its own requests, whatever the example says.
      assert.ok(Number.isInteger(value), path);
    } else {
      assert.deepEqual(value, this.#fill(pattern), path);
    }
  }
}

/** @param {unknown} pattern */
function isVariable(pattern) {
  return typeof pattern === 'string' && /^\$[a-z0-9_]+$/.test(pattern) && pattern !== '$_';
}

/** @param {string} line */
function parse(line) {
  return JSON.parse(line);
}
