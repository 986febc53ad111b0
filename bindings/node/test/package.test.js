/** What others get: the package itself, and the programs of its README. */

import assert from 'node:assert/strict';
import { execFile } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, symlinkSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';

import * as esm from '../index.js';
import { VERSION } from '../src/version.js';
import { COMMAND, REPOSITORY, startCar, temporaryFolder } from './support/helpers.js';

const run = promisify(execFile);
const PACKAGE = fileURLToPath(new URL('..', import.meta.url));
const README = readFileSync(join(PACKAGE, 'README.md'), 'utf8');
const bounded = { timeout: 60_000 };

/** @param {string} file */
function read(file) {
  return readFileSync(join(PACKAGE, file), 'utf8');
}

/**
 * Environment of a program that uses the package.
 *
 * @param {string} folder
 */
function environment(folder) {
  return { ...process.env, ...(COMMAND && { CAR_RPC_COMMAND: COMMAND }), CAR_HOME: folder };
}

test('all versions are one', () => {
  const python = readFileSync(join(REPOSITORY, 'car_rpc/__init__.py'), 'utf8');
  assert.equal(JSON.parse(read('package.json')).version, VERSION);
  assert.equal(JSON.parse(read('package-lock.json')).version, VERSION);
  assert.equal(/__version__ = "(.+)"/.exec(python)?.[1], VERSION);
});

test('the lock says what to install and not from where', () => {
  const { packages } = JSON.parse(read('package-lock.json'));
  for (const [name, entry] of Object.entries(packages)) {
    assert.equal(entry.resolved, undefined, name);
    assert.ok(name === '' || entry.integrity, name);
  }
});

test('the package has no runtime dependency', () => {
  const { dependencies, optionalDependencies, peerDependencies } = JSON.parse(read('package.json'));
  assert.deepEqual(
    [dependencies, optionalDependencies, peerDependencies],
    Array(3).fill(undefined),
  );
});

test('require gives what import gives, with the same classes of errors', bounded, async (t) => {
  const cjs = createRequire(import.meta.url)('car-rpc');
  assert.deepEqual(Object.keys(cjs).sort(), Object.keys(esm).sort());
  assert.equal(cjs.CarError, esm.CarError);
  const car = await cjs.Car.start({ command: COMMAND, stateDir: temporaryFolder(t) });
  t.after(() => car.close());
  assert.ok(car instanceof esm.Car);
  assert.ok(car instanceof cjs.Car);
  assert.equal({} instanceof cjs.Car, false);
  await assert.rejects(car.request('no.such.method'), cjs.CarError);
});

test('the packed package works by itself, from both kinds of modules', bounded, async (t) => {
  const folder = temporaryFolder(t);
  const pack = ['pack', '--ignore-scripts', '--pack-destination', folder, '--json'];
  const [{ filename }] = JSON.parse((await run('npm', pack, { cwd: PACKAGE })).stdout);
  await run('tar', ['-xf', join(folder, filename), '-C', folder]);
  mkdirSync(join(folder, 'node_modules'));
  renameSync(join(folder, 'package'), join(folder, 'node_modules/car-rpc'));
  const program = `
    const main = async () => {
      const car = await Car.start();
      console.log(car.server.protocol_version);
      await car.close();
    };
    main();
  `;
  writeFileSync(join(folder, 'app.cjs'), `const { Car } = require('car-rpc');${program}`);
  writeFileSync(join(folder, 'app.mjs'), `import { Car } from 'car-rpc';${program}`);
  for (const app of ['app.cjs', 'app.mjs']) {
    const options = { cwd: folder, env: environment(folder) };
    assert.equal((await run(process.execPath, [app], options)).stdout, '1\n');
  }
});

test('the programs of the README run', { timeout: 120_000 }, async (t) => {
  const programs = [...README.matchAll(/^```js\n(.*?)^```$/gms)].map((match) => match[1] ?? '');
  assert.ok(programs.length >= 2);
  const folder = temporaryFolder(t);
  mkdirSync(join(folder, 'node_modules'));
  symlinkSync(PACKAGE, join(folder, 'node_modules/car-rpc'), 'junction');
  const outputs = [];
  for (const program of programs) {
    writeFileSync(join(folder, 'program.mjs'), program);
    const options = { cwd: folder, env: environment(folder) };
    const { stdout, stderr } = await run(process.execPath, ['program.mjs'], options);
    assert.equal(stderr, '');
    outputs.push(stdout);
  }
  assert.match(outputs[0] ?? '', /\(.+:.+, \d+ tokens\)\n$/);
  assert.equal(outputs[1], 'You said: Hello!\n');
});

test('await using closes the core, where there is the symbol', bounded, async (t) => {
  const car = await startCar(t);
  await car[Symbol.asyncDispose]();
  assert.equal((await car.ended).exitCode, 0);
});
