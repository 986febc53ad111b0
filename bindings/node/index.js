/** car-rpc for Node: one local AI engine for an app, as a child process. */

export { Car } from './src/car.js';
export { CarError, CarProcessError, RunnerError } from './src/errors.js';

/**
 * @typedef {import('./src/session.js').StartOptions} StartOptions
 * @typedef {import('./src/session.js').LogEntry} LogEntry
 * @typedef {import('./src/car.js').CallOptions} CallOptions
 * @typedef {import('./src/runner.js').Runner} Runner
 * @typedef {import('./src/runner.js').RunnerRun} RunnerRun
 * @typedef {import('./src/runner.js').Emit} Emit
 * @typedef {import('./src/approvals.js').Approve} Approve
 */

/**
 * @template Event
 * @template Result
 * @typedef {import('./src/stream.js').EventStream<Event, Result>} EventStream
 */
