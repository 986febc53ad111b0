/**
 * Tests of an app that need no model, no key and no network: car-rpc answers from the cassettes in
 * this folder. To record them anew, with the real models, run `CASSETTE_MODE=record node --test`.
 */

import assert from 'node:assert/strict';
import { existsSync } from 'node:fs';
import { mkdtemp, readdir, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

// In an app of its own: import { Car } from 'car-rpc';
import { Car } from '../../bindings/node/index.js';
import { chatRunner } from '../node-runner/runner.js';
import { API_KEY, startServer } from '../node-runner/server.js';
import { Assistant } from './app.js';

/** What `make setup` builds. Without it, car-rpc is looked for as the binding's README says. */
const built = fileURLToPath(new URL('../../.venv/bin/car-rpc', import.meta.url));
const command = !process.env.CAR_RPC_COMMAND && existsSync(built) ? built : undefined;

const mode = /** @type {'record' | 'strict'} */ (process.env.CASSETTE_MODE ?? 'strict');

/**
 * Starts the app's car-rpc with a cassette. When the test ends, all of it must have been played.
 *
 * @param {import('node:test').TestContext} t
 * @param {string} name The cassette's.
 * @param {string} [apiKey] The user's.
 */
async function startCar(t, name, apiKey = API_KEY) {
  const stateDir = await mkdtemp(join(tmpdir(), 'car-rpc-example-'));
  const car = await Car.start({
    command,
    stateDir,
    runner: await startRunner(t, apiKey),
    cassette: { file: fileURLToPath(new URL(`${name}.jsonl`, import.meta.url)), mode },
  });
  t.after(async () => {
    await car.close();
    const { exitCode, stderr } = await car.ended;
    assert.equal(exitCode, 0, stderr);
    if (mode === 'strict') assert.deepEqual(await readdir(stateDir), []);
    await rm(stateDir, { recursive: true });
  });
  return car;
}

/**
 * The models of a provider are run when a cassette is recorded, and only then.
 *
 * @param {import('node:test').TestContext} t
 * @param {string} apiKey
 * @returns {Promise<import('../../bindings/node/index.js').Runner>}
 */
async function startRunner(t, apiKey) {
  if (mode === 'strict') return () => assert.fail('a cassette asks nobody');
  const provider = await startServer();
  t.after(() => provider.close());
  return chatRunner({ baseUrl: provider.url, apiKey });
}

test('the answer of a provider is shown as it comes', async (t) => {
  const shown = /** @type {string[]} */ ([]);
  const assistant = new Assistant(await startCar(t, 'provider'));
  const below = await assistant.ask('storyteller', 'Tell me a story.', (text) => shown.push(text));
  assert.deepEqual(shown.slice(0, 3), ['Once ', 'upon ', 'a ']);
  assert.equal(shown.join(''), 'Once upon a time, a model ran far away. ');
  assert.equal(below, '9 tokens');
});

test('a user with a wrong key is told to sign in', async (t) => {
  const shown = /** @type {string[]} */ ([]);
  const assistant = new Assistant(await startCar(t, 'wrong-key', 'a key of yesterday'));
  const below = await assistant.ask('storyteller', 'Tell me a story.', (text) => shown.push(text));
  assert.deepEqual(shown, []);
  assert.equal(below, 'The provider does not know your key. Sign in again.');
});

test('a story of the model on this machine stops when the user has read enough', async (t) => {
  const shown = /** @type {string[]} */ ([]);
  const assistant = new Assistant(await startCar(t, 'story'));
  const whole = await assistant.tellStory((text) => shown.push(text));
  assert.match(shown.join(''), /^Once upon a time/);
  assert.match(whole, /^\d+ tokens$/);
  const first = shown.splice(0).slice(0, 3);
  assert.equal(await assistant.tellStory((text) => shown.push(text), 3), 'Stopped.');
  assert.deepEqual(shown, first);
});

test(
  'a request that was not recorded says how it differs',
  { skip: mode === 'record' },
  async (t) => {
    const car = await Car.start({
      command,
      cassette: { file: fileURLToPath(new URL('story.jsonl', import.meta.url)) },
    });
    t.after(() => car.close());
    const params = { temperature: 0.5, max_tokens: 40 };
    const { result } = car.generate({ prompt: 'Tell me a short story.', params });
    await assert.rejects(result, (/** @type {any} */ error) => {
      assert.equal(error.kind, 'not_found');
      assert.deepEqual(error.data.diff, [{ path: '$.params.temperature', recorded: 0, got: 0.5 }]);
      return true;
    });
  },
);
