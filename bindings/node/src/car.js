import { Admission, Outcomes, Profiles, Spend } from './accounts.js';
import { Session, startAborted } from './session.js';
import { EventStream } from './stream.js';

/**
 * @typedef {import('./wire/index.js').GenerateRequest} GenerateRequest
 * @typedef {import('./wire/index.js').StreamEvent} StreamEvent
 * @typedef {import('./wire/index.js').InferenceResult} InferenceResult
 * @typedef {import('./wire/index.js').Methods} Methods
 * @typedef {import('./runner.js').Runner} Runner
 *
 * @typedef {object} CallOptions
 * @property {AbortSignal} [signal] Cancels the request: the core is told, its confirmation is
 *   awaited (at most 15 s), and the request rejects with a CarError of kind `cancelled` whose
 *   `cause` is the signal's reason. A result that was faster than the cancel is returned.
 */

/**
 * @template {string} Method
 * @typedef {Method extends keyof Methods ? Methods[Method]['params'] : object} Params
 */

/**
 * @template {string} Method
 * @typedef {Method extends keyof Methods ? Methods[Method]['result'] : any} Result
 */

/**
 * A running car-rpc process.
 *
 * Its methods take the wire's params and return the wire's results, under the wire's names. They
 * reject with a CarError.
 */
export class Car {
  #session;

  /** What the process said of itself: its version, its methods, its limits. */
  server;

  /**
   * Use {@link Car.start}.
   *
   * @param {Session} session
   * @param {import('./wire/index.js').InitializeResult} server
   */
  constructor(session, server) {
    this.#session = session;
    this.server = server;
    this.models = new Models(this);
    this.outcomes = new Outcomes(this);
    this.profiles = new Profiles(this);
    this.spend = new Spend(this);
    this.admission = new Admission(this);
    this.keys = new Keys(this);
    this.eventlog = new Eventlog(
      this,
      (params, signal) =>
        new EventStream(this.#session.connection, 'eventlog.subscribe', params, signal),
    );
  }

  /**
   * Starts car-rpc as a child process and introduces this app.
   *
   * @param {import('./session.js').StartOptions} [options]
   * @returns {Promise<Car>}
   * @throws {CarProcessError} It could not be started, ended, or took too long.
   * @throws {CarError} It was aborted, or the core refused the connection.
   */
  static async start(options = {}) {
    if (options.signal?.aborted) throw startAborted(options.signal);
    const session = new Session(options);
    try {
      return new Car(session, await session.initialize(options));
    } catch (error) {
      await session.abandon();
      throw error;
    }
  }

  /** Process id of the core. */
  get pid() {
    return /** @type {number} */ (this.#session.pid);
  }

  /**
   * Resolves when the process is gone, however it ended: with its exit code, and what it wrote to
   * standard error. Never rejects.
   */
  get ended() {
    return this.#session.ended;
  }

  /**
   * Runs a model. The request starts at once.
   *
   * @param {GenerateRequest} request Events come unless it says `stream: false`.
   * @param {CallOptions} [options]
   * @returns {EventStream<StreamEvent, InferenceResult>} Its events, and `result`.
   */
  generate(request, { signal } = {}) {
    const params = { ...request, stream: request.stream ?? true };
    return new EventStream(this.#session.connection, 'generate', params, signal);
  }

  /**
   * Shows from the event log what a request got, or runs it again. It starts at once.
   *
   * @param {import('./wire/index.js').ReplayRunParams} params Events come unless it says
   *   `stream: false`.
   * @param {CallOptions} [options]
   * @returns {EventStream<StreamEvent, import('./wire/index.js').ReplayRunResult>} The events of a
   *   `generate`, and `result`.
   */
  replay(params, { signal } = {}) {
    const asked = { ...params, stream: params.stream ?? true };
    return new EventStream(this.#session.connection, 'replay.run', asked, signal);
  }

  /**
   * @param {import('./wire/index.js').EmbedParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EmbedResult>}
   */
  embed(params, options) {
    return this.request('embed', params, options);
  }

  /**
   * Says which labels fit a text.
   *
   * @param {import('./wire/index.js').ClassifyParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ClassifyResult>}
   */
  classify(params, options) {
    return this.request('classify', params, options);
  }

  /**
   * Orders documents by how well they fit a query.
   *
   * @param {import('./wire/index.js').RerankParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').RerankResult>}
   */
  rerank(params, options) {
    return this.request('rerank', params, options);
  }

  /**
   * Finds things in an image.
   *
   * @param {import('./wire/index.js').GroundParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').GroundResult>}
   */
  ground(params, options) {
    return this.request('ground', params, options);
  }

  /**
   * Turns speech into text.
   *
   * @param {import('./wire/index.js').TranscribeParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').TranscribeResult>}
   */
  transcribe(params, options) {
    return this.request('transcribe', params, options);
  }

  /**
   * @param {import('./wire/index.js').TokenizeParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').TokenizeResult>}
   */
  tokenize(params, options) {
    return this.request('tokenize', params, options);
  }

  /**
   * @param {import('./wire/index.js').DetokenizeParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').DetokenizeResult>}
   */
  detokenize(params, options) {
    return this.request('detokenize', params, options);
  }

  /**
   * Calls any method.
   *
   * @template {string} Method
   * @param {Method} method
   * @param {Params<Method>} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<Result<Method>>}
   */
  request(method, params, { signal } = {}) {
    return this.#session.connection.request(method, params ?? {}, signal);
  }

  /**
   * Runs delegated models with a function of this program, instead of any one registered before.
   *
   * @param {Runner} runner
   * @param {import('./wire/index.js').RunnerRegisterParams} [params]
   * @returns {Promise<import('./wire/index.js').RunnerRegisterResult>}
   */
  registerRunner(runner, params) {
    return this.#session.registerRunner(runner, params);
  }

  /**
   * Runs delegated models no longer. Runs that are under way go on.
   *
   * @returns {Promise<import('./wire/index.js').RunnerUnregisterResult>}
   */
  async unregisterRunner() {
    const { runs } = this.#session;
    const unregistered = runs.runner;
    const result = await this.request('runner.unregister');
    // Another one may have been registered meanwhile.
    if (runs.runner === unregistered) runs.runner = undefined;
    return result;
  }

  /**
   * Ends the process: lets what is in flight finish for two seconds (the core's `--drain-ms`),
   * cancels the rest, and sees to it that nothing is left, in at most some seconds. Whoever is in a
   * hurry aborts first. Never rejects, and may be called again.
   */
  close() {
    return this.#session.close();
  }

  /** What `await using` calls. Node 20.4 and older do not have the symbol. */
  [Symbol.asyncDispose]() {
    return this.close();
  }
}

/** The methods `models.*`. */
class Models {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {import('./wire/index.js').ModelsListParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsListResult>}
   */
  list(params, options) {
    return this.#car.request('models.list', params, options);
  }

  /**
   * @param {import('./wire/index.js').ModelParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelResult>}
   */
  get(params, options) {
    return this.#car.request('models.get', params, options);
  }

  /**
   * @param {import('./wire/index.js').ModelsSearchParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsSearchResult>}
   */
  search(params, options) {
    return this.#car.request('models.search', params, options);
  }

  /**
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsUpgradesResult>}
   */
  upgrades(options) {
    return this.#car.request('models.upgrades', {}, options);
  }

  /**
   * @param {import('./wire/index.js').ModelsRegisterParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsRegisterResult>}
   */
  register(params, options) {
    return this.#car.request('models.register', params, options);
  }

  /**
   * @param {import('./wire/index.js').ModelParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsUnregisterResult>}
   */
  unregister(params, options) {
    return this.#car.request('models.unregister', params, options);
  }

  /**
   * Tells the state of all models.
   *
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsHealthResult>}
   */
  health(options) {
    return this.#car.request('models.health', {}, options);
  }

  /**
   * Tells which model `generate` would get, and why; it does not run.
   *
   * @param {import('./wire/index.js').GenerateRequest} request
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').RouteDecision>}
   */
  route(request, options) {
    return this.#car.request('models.route', request, options);
  }

  /**
   * @param {import('./wire/index.js').ModelsStatsParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsStatsResult>}
   */
  stats(params, options) {
    return this.#car.request('models.stats', params, options);
  }

  /**
   * @param {import('./wire/index.js').ModelsDiscoverParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ModelsDiscoverResult>}
   */
  discover(params, options) {
    return this.#car.request('models.discover', params, options);
  }
}

/** The methods `keys.*`. */
class Keys {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {import('./wire/index.js').EmptyParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').KeysStatsResult>}
   */
  stats(params, options) {
    return this.#car.request('keys.stats', params, options);
  }
}

/** The methods `eventlog.*`. */
class Eventlog {
  #car;
  #subscribe;

  /**
   * @param {Car} car
   * @param {(params: import('./wire/index.js').EventlogSubscribeParams, signal?: AbortSignal) =>
   *   EventStream<import('./wire/index.js').LogEvent, null>} subscribe
   */
  constructor(car, subscribe) {
    this.#car = car;
    this.#subscribe = subscribe;
  }

  /**
   * @param {import('./wire/index.js').EventlogQueryParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EventlogQueryResult>}
   */
  query(params, options) {
    return this.#car.request('eventlog.query', params, options);
  }

  /**
   * Events of all processes, from a number or from now on. It has no end of its own: leave the
   * loop, or abort, to stop it; it throws when the process shuts down.
   *
   * @param {import('./wire/index.js').EventlogSubscribeParams} [params]
   * @param {CallOptions} [options]
   */
  subscribe(params, { signal } = {}) {
    return this.#subscribe(params ?? {}, signal);
  }

  /**
   * @param {import('./wire/index.js').EventlogExportParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EventlogExportResult>}
   */
  export(params, options) {
    return this.#car.request('eventlog.export', params, options);
  }

  /**
   * @param {import('./wire/index.js').EmptyParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EventlogVerifyResult>}
   */
  verify(params, options) {
    return this.#car.request('eventlog.verify', params, options);
  }

  /**
   * @param {import('./wire/index.js').EventlogPurgeParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EventlogPurgeResult>}
   */
  purge(params, options) {
    return this.#car.request('eventlog.purge', params, options);
  }

  /**
   * @param {import('./wire/index.js').EventlogRetentionParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').EventlogRetentionResult>}
   */
  retention(params, options) {
    return this.#car.request('eventlog.retention', params, options);
  }
}
