'use strict';

const { CarError, CarProcessError, RunnerError } = require('./src/errors.cjs');

/**
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).Approve} Approve
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).Car} Car
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).CallOptions} CallOptions
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).Emit} Emit
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).LogEntry} LogEntry
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).Runner} Runner
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).RunnerRun} RunnerRun
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).StartOptions} StartOptions
 */

/**
 * @template Event
 * @template Result
 * @typedef {import('./index.js', { with: { 'resolution-mode': 'import' } }).EventStream<Event, Result>} EventStream
 */

/** @type {Function & { start(options?: StartOptions): Promise<Car> } | undefined} */
let CarClass;

// `require` of an ES module needs Node 20.19, so it is imported when it is first needed.
const Car = {
  /** @param {StartOptions} [options] */
  async start(options) {
    const car = await import('./index.js');
    CarClass = car.Car;
    return CarClass.start(options);
  },
  /** @param {unknown} value */
  [Symbol.hasInstance](value) {
    return CarClass !== undefined && value instanceof CarClass;
  },
};

module.exports = { Car, CarError, CarProcessError, RunnerError };
