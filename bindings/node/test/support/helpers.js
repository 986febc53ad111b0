/** What several tests need: a core to spawn, folders that go away, and waits with a bound. */

import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { Car } from '../../index.js';

/** @typedef {import('node:test').TestContext} TestContext */

export const REPOSITORY = fileURLToPath(new URL('../../../..', import.meta.url));

/** The real core: of this checkout, unless CAR_RPC_COMMAND names another one. */
export const COMMAND = process.env.CAR_RPC_COMMAND
  ? undefined
  : join(REPOSITORY, '.venv/bin/car-rpc');

/** @param {TestContext} t */
export function temporaryFolder(t) {
  const folder = mkdtempSync(join(tmpdir(), 'car-rpc-node-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  return folder;
}

/**
 * Starts a real core that ends with the test.
 *
 * @param {TestContext} t
 * @param {import('../../index.js').StartOptions} [options]
 */
export async function startCar(t, options) {
  const folder = temporaryFolder(t);
  const car = await Car.start({ command: COMMAND, stateDir: folder, ...options });
  t.after(() => car.close());
  return car;
}

/**
 * Starts a core that is a small program of Node, and ends with the test.
 *
 * @param {TestContext} t
 * @param {string} program
 * @param {import('../../index.js').StartOptions} [options]
 */
export async function startProgram(t, program, options) {
  const car = await Car.start({ ...options, command: programCommand(program) });
  t.after(() => car.close());
  return car;
}

/**
 * A core that is a small program of Node: it gets `answer(id, result)` and `write(text)`, and its
 * function `handle` gets every message but `initialize`.
 *
 * @param {string} program
 */
export function programCommand(program) {
  const prelude = `
    const write = (text) => process.stdout.write(text);
    const send = (message) => write(JSON.stringify({ jsonrpc: '2.0', ...message }) + '\\n');
    const answer = (id, result) => send({ id, result });
    let handle = ({ id, method }) => {
      if (method === 'exit') process.exit(0);
      if (id !== undefined) answer(id, null);
    };
    let begin = (id) => answer(id, {});
    require('node:readline').createInterface({ input: process.stdin })
      .on('line', (line) => {
        const message = JSON.parse(line);
        if (message.method === 'initialize') begin(message.id, message.params);
        else handle(message);
      })
      .on('close', () => process.exit(0));
  `;
  return [process.execPath, '-e', `${prelude}\n${program}`];
}

/**
 * Registers a scripted model.
 *
 * @param {Car} car
 * @param {import('../../src/wire/index.js').FakeSource['script']} script
 * @param {string} [id]
 */
export async function registerScript(car, script, id = 'test/script:1') {
  await car.models.register({
    model: { id, source: { type: 'fake', script }, capabilities: ['generate'] },
  });
  return id;
}

/** @param {Car} car */
export async function registerDelegated(car) {
  const id = 'test/delegated:1';
  await car.models.register({
    model: { id, source: { type: 'delegated', hint: 'test' }, capabilities: ['generate'] },
  });
  return id;
}

/**
 * A promise and what settles it.
 *
 * @template [T=void]
 */
export function deferred() {
  /** @type {(value: T) => void} */
  let resolve = () => {};
  /** @type {(error: unknown) => void} */
  let reject = () => {};
  const promise = new Promise((yes, no) => {
    resolve = /** @type {(value: T) => void} */ (yes);
    reject = no;
  });
  return { promise: /** @type {Promise<T>} */ (promise), resolve, reject };
}

/**
 * Looks until something holds.
 *
 * @param {() => boolean} holds
 * @param {string} what
 * @param {number} [timeoutMs]
 */
export async function until(holds, what, timeoutMs = 10_000) {
  const end = Date.now() + timeoutMs;
  while (!holds()) {
    assert.ok(Date.now() < end, `in time: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 10));
  }
}

/**
 * Waits until a process is gone.
 *
 * @param {number} pid
 */
export function untilGone(pid) {
  return until(() => !isAlive(pid), `process ${pid} is gone`);
}

/** @param {number} pid */
export function isAlive(pid) {
  try {
    process.kill(pid, 0);
  } catch {
    return false;
  }
  // A process that nobody has asked for its exit code yet is dead, too (proc(5)).
  const status = `/proc/${pid}/stat`;
  if (process.platform !== 'linux') return true;
  if (!existsSync(status)) return false;
  return !/\) [ZX] /.test(readFileSync(status, 'latin1'));
}

/**
 * @template T
 * @param {AsyncIterable<T>} stream
 */
export async function collect(stream) {
  /** @type {T[]} */
  const events = [];
  for await (const event of stream) events.push(event);
  return events;
}
