/** @typedef {import('./car.js').Car} Car */
/** @typedef {import('./car.js').CallOptions} CallOptions */

/** The methods `outcomes.*`. */
export class Outcomes {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {import('./wire/index.js').OutcomesReportParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').OutcomesReportResult>}
   */
  report(params, options) {
    return this.#car.request('outcomes.report', params, options);
  }

  /**
   * @param {import('./wire/index.js').OutcomesResolvePendingParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').OutcomesResolvePendingResult>}
   */
  resolvePending(params, options) {
    return this.#car.request('outcomes.resolve_pending', params, options);
  }

  /**
   * @param {import('./wire/index.js').OutcomesScoreboardParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').OutcomesScoreboardResult>}
   */
  scoreboard(params, options) {
    return this.#car.request('outcomes.scoreboard', params, options);
  }
}

/** The methods `profiles.*`. */
export class Profiles {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ProfilesResult>}
   */
  export(options) {
    return this.#car.request('profiles.export', {}, options);
  }

  /**
   * @param {import('./wire/index.js').ProfilesImportParams} params
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').ProfilesImportResult>}
   */
  import(params, options) {
    return this.#car.request('profiles.import', params, options);
  }
}

/** The methods `spend.*`. */
export class Spend {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {import('./wire/index.js').SpendStatusParams} [params]
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').SpendStatusResult>}
   */
  status(params, options) {
    return this.#car.request('spend.status', params, options);
  }

  /**
   * @param {import('./wire/index.js').SpendLimits} limits
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').SpendStatusResult>}
   */
  setLimits(limits, options) {
    return this.#car.request('spend.set_limits', limits, options);
  }
}

/** The methods `admission.*`. */
export class Admission {
  #car;

  /** @param {Car} car */
  constructor(car) {
    this.#car = car;
  }

  /**
   * @param {CallOptions} [options]
   * @returns {Promise<import('./wire/index.js').AdmissionStatus>}
   */
  status(options) {
    return this.#car.request('admission.status', {}, options);
  }
}
