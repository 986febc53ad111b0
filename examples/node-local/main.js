/**
 * An app that streams text from the model that ships with car-rpc, and stops in the middle of an
 * answer. After `make setup`, run it with `node examples/node-local/main.js`.
 */

import { existsSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

// In an app of its own: import { Car } from 'car-rpc';
import { Car } from '../../bindings/node/index.js';

/** What `make setup` builds. Without it, car-rpc is looked for as the binding's README says. */
const built = fileURLToPath(new URL('../../.venv/bin/car-rpc', import.meta.url));
const command = !process.env.CAR_RPC_COMMAND && existsSync(built) ? built : undefined;

// An app keeps its state where it keeps everything else; an example leaves nothing behind.
const stateDir = await mkdtemp(join(tmpdir(), 'car-rpc-example-'));
const interrupted = new AbortController();
process.once('SIGINT', () => interrupted.abort());
process.once('SIGTERM', () => interrupted.abort());

/** @param {Car} car */
async function readToTheEnd(car) {
  const request = { prompt: 'Tell me a short story.', params: { temperature: 0 } };
  const stream = car.generate(request, { signal: interrupted.signal });
  process.stdout.write('The whole answer: ');
  for await (const event of stream) {
    if (event.type === 'text_delta') process.stdout.write(event.text);
  }
  const { model_used, usage, latency_ms } = await stream.result;
  console.log(
    `\n(${model_used}: ${usage?.completion_tokens} tokens in ${latency_ms.toFixed()} ms)\n`,
  );
}

/** @param {Car} car */
async function stopInTheMiddle(car) {
  // Without ignore_eos the model might end before anybody can stop it.
  const params = { temperature: 0, ignore_eos: true };
  const stream = car.generate(
    { prompt: 'Tell me a short story.', params },
    { signal: interrupted.signal },
  );
  process.stdout.write('The first words: ');
  let length = 0;
  for await (const event of stream) {
    if (event.type !== 'text_delta') continue;
    process.stdout.write(event.text);
    length += event.text.length;
    // Leaving the loop cancels the request, and waits until the model has stopped.
    if (length > 30) break;
  }
  const error = await stream.result.catch((reason) => reason);
  console.log(`\n(then: ${error.kind})\n`);
}

try {
  const car = await Car.start({ command, stateDir, signal: interrupted.signal });
  try {
    console.log(`car-rpc ${car.server.server_info.version} runs as process ${car.pid}\n`);
    await readToTheEnd(car);
    await stopInTheMiddle(car);
  } finally {
    await car.close();
    console.log(`closed, exit code ${(await car.ended).exitCode}`);
  }
} catch (error) {
  if (!interrupted.signal.aborted) throw error;
  process.exitCode = 130;
} finally {
  await rm(stateDir, { recursive: true, force: true });
}
