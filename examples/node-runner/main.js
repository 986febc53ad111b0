/**
 * An app that uses a local model, and runs the models of a provider itself: car-rpc asks it to, and
 * never sees the key. The provider is a small server in this folder. After `make setup`, run it with
 * `node examples/node-runner/main.js`.
 */

import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

// In an app of its own: import { Car } from 'car-rpc';
import { Car } from '../../bindings/node/index.js';
import { chatRunner } from './runner.js';
import { API_KEY, startServer } from './server.js';

/** What `make setup` builds. Without it, car-rpc is looked for as the binding's README says. */
const built = fileURLToPath(new URL('../../.venv/bin/car-rpc', import.meta.url));
const command = !process.env.CAR_RPC_COMMAND && existsSync(built) ? built : undefined;

const WEATHER_TOOL = /** @type {const} */ ({
  type: 'function',
  function: {
    name: 'get_weather',
    description: 'Get the weather in a city',
    parameters: { type: 'object', properties: { city: { type: 'string' } } },
  },
});

const interrupted = new AbortController();
process.once('SIGINT', () => interrupted.abort());
process.once('SIGTERM', () => interrupted.abort());

/**
 * @param {Car} car
 * @param {string} hint The provider's name of the model.
 */
async function register(car, hint) {
  const id = `provider/${hint}:cloud`;
  await car.models.register({
    model: { id, source: { type: 'delegated', hint }, capabilities: ['generate', 'tool_use'] },
  });
  return id;
}

/**
 * Shows an answer as it comes.
 *
 * @param {Car} car
 * @param {import('../../bindings/node/src/wire/index.js').GenerateRequest} request
 * @param {number} [most] Words after which the loop is left.
 */
async function show(car, request, most = Infinity) {
  const stream = car.generate(request, { signal: interrupted.signal });
  let words = 0;
  process.stdout.write('  ');
  for await (const event of stream) {
    if (event.type !== 'text_delta') continue;
    process.stdout.write(event.text);
    words += 1;
    // Leaving the loop cancels the request, and waits until that is confirmed.
    if (words === most) break;
  }
  return stream.result;
}

/** @param {Car} car */
async function useLocalModel(car) {
  console.log('The local model, in a process of its own:');
  const prompt = 'Tell me a short story.';
  const { model_used } = await show(car, { prompt, params: { temperature: 0 } });
  console.log(`\n  (${model_used})`);
  console.log('Left in the middle:');
  const params = { temperature: 0, ignore_eos: true };
  await report(show(car, { prompt, params }, 8), '...\n');
}

/** @param {Car} car */
async function streamText(car) {
  console.log("A provider's model, streamed through the app:");
  const model = await register(car, 'storyteller');
  const { stop_reason, usage } = await show(car, { model, prompt: 'Tell me a story.' });
  console.log(`\n  (${stop_reason}, ${usage?.total_tokens} tokens)`);
}

/** @param {Car} car */
async function survive(car) {
  console.log('A stream that the provider breaks off, and whose text is whole all the same:');
  const model = await register(car, 'flaky');
  const { recoveries } = await show(car, { model, prompt: 'Tell me a story.' });
  console.log(`\n  (continued ${recoveries} time)`);
}

/** @param {Car} car */
async function callTool(car) {
  console.log('A tool call, streamed in pieces and whole in the result:');
  const model = await register(car, 'weather-caller');
  const request = { model, prompt: 'What is the weather in Paris?', tools: [WEATHER_TOOL] };
  const { tool_calls } = await car.generate(request, { signal: interrupted.signal }).result;
  for (const call of tool_calls) console.log(`  ${call.name}(${JSON.stringify(call.arguments)})`);
}

/**
 * @param {Car} car
 * @param {Promise<void>} clientLeft
 */
async function cancel(car, clientLeft) {
  console.log('An answer without end, left after some words:');
  const model = await register(car, 'endless');
  // The runner of a request that is cancelled gives up its call.
  await report(show(car, { model, prompt: 'Go on.' }, 5), '...\n');
  await clientLeft;
  console.log('  (and the provider has seen its client hang up)');
}

/** @param {Car} car */
async function fail(car) {
  console.log('Refusals of the provider, with their kinds:');
  for (const hint of ['busy', 'broken']) {
    const model = await register(car, hint);
    // Without this, car-rpc waits as long as the provider wishes and tries again.
    const recovery = 'none';
    await report(
      car.generate({ model, prompt: 'Hello', recovery }, { signal: interrupted.signal }).result,
    );
  }
}

/**
 * @param {Promise<unknown>} result
 * @param {string} [before] Written before the failure.
 */
async function report(result, before = '') {
  try {
    await result;
  } catch (error) {
    if (interrupted.signal.aborted) throw error;
    process.stdout.write(before);
    const { kind, message, data, retryable } =
      /** @type {import('../../bindings/node/index.js').CarError} */ (error);
    const after = data.retry_after_ms === undefined ? '' : ` after ${data.retry_after_ms} ms`;
    const advice = kind === 'cancelled' ? 'as wished' : retryable ? `try again${after}` : 'give up';
    console.log(`  ${kind} (${message}): ${advice}`);
  }
}

/**
 * @param {Car} car
 * @param {string} baseUrl
 */
async function useWrongKey(car, baseUrl) {
  await car.registerRunner(chatRunner({ baseUrl, apiKey: 'wrong' }));
  const model = 'provider/storyteller:cloud';
  await report(car.generate({ model, prompt: 'Hello' }, { signal: interrupted.signal }).result);
}

// An app keeps its state where it keeps everything else; an example leaves nothing behind.
const stateDir = await mkdtemp(join(tmpdir(), 'car-rpc-example-'));
const server = await startServer();
try {
  const runner = chatRunner({ baseUrl: server.url, apiKey: API_KEY });
  const car = await Car.start({ command, stateDir, runner, signal: interrupted.signal });
  try {
    console.log(`car-rpc runs as process ${car.pid}`);
    await useLocalModel(car);
    await streamText(car);
    await callTool(car);
    await survive(car);
    await cancel(car, server.clientLeft);
    await fail(car);
    await useWrongKey(car, server.url);
  } finally {
    await car.close();
    console.log(`closed, exit code ${(await car.ended).exitCode}`);
  }
} catch (error) {
  if (!interrupted.signal.aborted) throw error;
  process.exitCode = 130;
} finally {
  await server.close();
  await rm(stateDir, { recursive: true, force: true });
}
