'use strict';

const { CarError, CarProcessError, RunnerError } = require('./src/errors.cjs');

/** @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).StartOptions} StartOptions */

// `require` of an ES module needs Node 20.19, so it is imported when it is first needed.
const Car = {
  /** @param {StartOptions} [options] */
  async start(options) {
    const car = await import('./index.js');
    return car.Car.start(options);
  },
};

module.exports = { Car, CarError, CarProcessError, RunnerError };
