/** Against the real car-rpc. */

import assert from 'node:assert/strict';
import { once } from 'node:events';
import { join } from 'node:path';
import { test } from 'node:test';

import { CarError, CarProcessError, RunnerError } from '../index.js';
import {
  collect,
  deferred,
  registerDelegated,
  registerScript,
  startCar,
  temporaryFolder,
  untilGone,
} from './support/helpers.js';

/** @typedef {import('../src/wire/index.js').StreamEvent} StreamEvent */

const bounded = { timeout: 60_000 };

/** @type {import('../src/wire/index.js').FakeSource['script']} */
const STALL = [{ emit: { type: 'text_delta', text: 'Hel' } }, { stall: true }];

/** @param {StreamEvent[]} events */
function textOf(events) {
  return events.map((event) => (event.type === 'text_delta' ? event.text : '')).join('');
}

test('a scripted model streams its answer', bounded, async (t) => {
  const car = await startCar(t);
  assert.equal(car.server.protocol_version, 1);
  const model = await registerScript(car, [
    { emit: { type: 'text_delta', text: 'Grüße 👋 ' }, repeat: 3 },
    { emit: { type: 'usage', prompt_tokens: 3, completion_tokens: 4 } },
  ]);
  const stream = car.generate({ model, prompt: 'Hello' });
  const events = await collect(stream);
  const result = await stream.result;
  assert.equal(events[0]?.type, 'attempt');
  assert.equal(events.at(-1)?.type, 'done');
  assert.equal(textOf(events), 'Grüße 👋 Grüße 👋 Grüße 👋 ');
  assert.equal(result.text, textOf(events));
  assert.equal(result.usage?.total_tokens, 7);
});

test('without stream there is only the result', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, [{ echo: true }]);
  const stream = car.generate({ model, prompt: 'Hello', stream: false });
  assert.equal((await stream.result).text, 'Hello');
  assert.deepEqual(await collect(stream), []);
});

test('the demo model streams, embeds, and counts tokens', bounded, async (t) => {
  const car = await startCar(t);
  const request = { prompt: 'Tell me a short story.', params: { temperature: 0, max_tokens: 16 } };
  const stream = car.generate(request);
  const events = await collect(stream);
  const { text, usage, model_used: model } = await stream.result;
  assert.ok(text.length > 0);
  assert.equal(textOf(events), text);
  assert.equal(usage?.completion_tokens, 16);

  const { tokens } = await car.tokenize({ model, text: 'Hello there' });
  assert.equal((await car.detokenize({ model, tokens })).text, 'Hello there');
  const { embeddings, dimensions } = await car.embed({ texts: ['a cat', 'a dog'] });
  assert.deepEqual(
    embeddings.map((each) => each.length),
    [dimensions, dimensions],
  );
});

test('models are registered, listed, found and forgotten', bounded, async (t) => {
  const car = await startCar(t);
  const id = await registerScript(car, [{ echo: true }]);
  const { models } = await car.models.list({ capability: 'generate' });
  assert.ok(models.some((model) => model.id === id));
  assert.equal((await car.models.get({ model: id })).model.id, id);
  assert.equal((await car.models.unregister({ model: id })).model_id, id);
  await assert.rejects(car.models.get({ model: id }), { kind: 'model_not_found', local: false });
  assert.deepEqual(await car.keys.stats(), { endpoints: [] });
  const found = await car.models.discover({ endpoints: [] });
  assert.deepEqual([found.enabled, found.servers], [true, []]);
});

test('how a model did, and what it cost, is kept', bounded, async (t) => {
  const car = await startCar(t);
  const { model } = await car.models.register({
    model: {
      id: 't/priced:1',
      source: {
        type: 'fake',
        script: [{ emit: { type: 'usage', prompt_tokens: 5, completion_tokens: 10 } }],
      },
      capabilities: ['generate'],
      cost: { input_per_mtok_usd: 1, output_per_mtok_usd: 10 },
    },
  });
  const { trace_id, cost_usd } = await car.generate({ model: model.id, prompt: 'x' }).result;
  assert.equal(cost_usd, 0.000105);
  assert.ok((await car.outcomes.report({ trace_id, outcome: 'accepted' })).recorded);
  const pending = { outcomes: [{ trace_id, success: true }] };
  assert.deepEqual(await car.outcomes.resolvePending(pending), { recorded: 1, resolved: 0 });
  const [row] = (await car.outcomes.scoreboard()).models;
  assert.deepEqual([row?.accepted_count, row?.usd_per_success], [1, cost_usd]);
  const [stats] = (await car.models.stats({ model: model.id })).models;
  assert.equal(stats?.success_rate, 1);
  const { profiles } = await car.profiles.export();
  assert.deepEqual(await car.profiles.import({ profiles }), { imported: 1 });
  await car.spend.setLimits({ max_usd_total: 0.0002 });
  assert.equal((await car.spend.status()).total.used_usd, cost_usd);
  const again = car.generate({ model: model.id, prompt: 'x' });
  await assert.rejects(again.result, { kind: 'spend_limit_exceeded' });
  assert.equal((await car.admission.status()).queued, 0);
});

test(
  'a cassette answers in the place of the models that it was recorded from',
  bounded,
  async (t) => {
    const file = join(temporaryFolder(t), 'c.jsonl');
    const recording = await startCar(t, { cassette: { file, mode: 'record' } });
    const model = await registerScript(recording, [{ echo: true }]);
    const told = await collect(recording.generate({ model, prompt: 'one two' }));
    await recording.close();

    const car = await startCar(t, { cassette: { file, mode: 'strict', speed: 'timed' } });
    await registerScript(car, [{ echo: true }]);
    const stream = car.generate({ model, prompt: 'one two' });
    assert.deepEqual(await collect(stream), told);
    assert.equal((await stream.result).text, 'one two');
    await assert.rejects(car.models.list(), { kind: 'not_found', local: false });
    await car.close();
    assert.equal((await car.ended).exitCode, 5);
  },
);

test('the health of all models, and why one is chosen, are told', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, [{ echo: true }]);
  const { models, counts, routing_scenarios } = await car.models.health();
  assert.equal(models.length, counts.total);
  assert.equal(models.find((each) => each.model_id === model)?.breaker, 'closed');
  const decision = await car.models.route({ prompt: 'Tell me of it.' });
  assert.equal(routing_scenarios[0]?.decision?.model_id, decision.model_id);
  assert.equal(decision.candidates[0]?.selected, true);
});

test('models are searched for, and judged by this machine', bounded, async (t) => {
  const car = await startCar(t);
  const { models, machine, recommended } = await car.models.search({ query: 'qwen3', limit: 3 });
  assert.equal(models.length, 3);
  assert.ok(machine.memory_total_bytes === 0 || models.every((model) => model.fit !== undefined));
  assert.ok(recommended === undefined || recommended.includes('/'));
  assert.ok(Array.isArray((await car.models.upgrades()).upgrades));
});

test('the event log tells what happened', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, [{ echo: true }]);
  const { trace_id } = await car.generate({ model, prompt: 'Hello' }).result;
  const { events } = await car.eventlog.query({ trace_id });
  assert.ok(events.length > 0);
  assert.ok(events.every((event) => event.trace_id === trace_id));
});

test('the event log is watched, exported, verified and purged', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, [{ echo: true }]);
  const { trace_id } = await car.generate({ model, prompt: 'Hello' }).result;
  let last = 0;
  for await (const event of car.eventlog.subscribe({ from_seq: 1 })) {
    assert.equal(event.seq, last + 1);
    last = event.seq;
    if (event.trace_id === trace_id && event.type === 'completion') break;
  }
  const exported = await car.eventlog.export({ format: 'jsonl', trace_id });
  assert.equal(exported.content?.trim().split('\n').length, exported.count);
  const { purged } = await car.eventlog.purge({ trace_id });
  assert.equal(purged, exported.count);
  assert.deepEqual(await car.eventlog.verify(), { ok: true, checked: last });
  const { policy } = await car.eventlog.retention({ policy: { max_bytes: 0 } });
  assert.deepEqual(policy, { max_age_ms: 0, max_bytes: 0 });
});

test('wrong parameters and unknown methods are errors with a kind', bounded, async (t) => {
  const car = await startCar(t);
  const wrong = car.tokenize(/** @type {any} */ ({ model: 7, text: 'x' }));
  await assert.rejects(wrong, (error) => {
    assert.ok(error instanceof CarError && !(error instanceof CarProcessError));
    assert.deepEqual(
      [error.kind, error.code, error.data.path],
      ['invalid_params', -32602, '$.model'],
    );
    return true;
  });
  await assert.rejects(car.request('no.such.method'), { kind: 'method_not_found', code: -32601 });
});

test('leaving the loop cancels the request in the core', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, STALL);
  const stream = car.generate({ model, prompt: 'x' });
  for await (const event of stream) if (event.type === 'text_delta') break;
  await assert.rejects(stream.result, (error) => {
    assert.ok(error instanceof CarError);
    assert.deepEqual([error.kind, error.local, error.code], ['cancelled', false, -32800]);
    assert.equal(/** @type {any} */ (error.data.partial).text, 'Hel');
    return true;
  });
  assert.equal((await car.request('ping')).in_flight, 1);
});

test('an aborted signal cancels a stream and a request', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, STALL);
  const controller = new AbortController();
  const reading = (async () => {
    for await (const event of car.generate({ model, prompt: 'x' }, controller)) {
      if (event.type === 'text_delta') controller.abort('seen enough');
    }
  })();
  await assert.rejects(reading, { kind: 'cancelled', local: false, cause: 'seen enough' });

  const signal = AbortSignal.timeout(50);
  const request = car.request('generate', { model, prompt: 'x' }, { signal });
  await assert.rejects(request, (error) => {
    assert.ok(error instanceof CarError);
    assert.equal(error.kind, 'cancelled');
    assert.equal(/** @type {Error} */ (error.cause).name, 'TimeoutError');
    return true;
  });
});

test('20,000 deltas stream while another request is cancelled', bounded, async (t) => {
  const car = await startCar(t);
  const many = await registerScript(
    car,
    [{ emit: { type: 'text_delta', text: 'word ' }, repeat: 20_000 }],
    'test/many:1',
  );
  const stall = await registerScript(car, STALL, 'test/stall:1');
  const controller = new AbortController();
  const cancelled = assert.rejects(car.generate({ model: stall, prompt: 'x' }, controller).result, {
    kind: 'cancelled',
  });
  const stream = car.generate({ model: many, prompt: 'x' });
  let deltas = 0;
  for await (const event of stream) {
    if (event.type !== 'text_delta') continue;
    deltas += 1;
    if (deltas === 1000) {
      controller.abort();
      // In the middle of the stream: its events do not stand before the confirmation for ever.
      await cancelled;
    }
  }
  assert.equal(deltas, 20_000);
  assert.equal((await stream.result).text.length, 100_000);
});

test(
  'a stream that nobody reads holds up neither other requests nor the memory',
  bounded,
  async (t) => {
    const car = await startCar(t);
    // About 200 MB on the wire.
    const text = 'x'.repeat(1000);
    const endless = await registerScript(
      car,
      [{ emit: { type: 'text_delta', text }, repeat: 200_000 }],
      'test/endless:1',
    );
    const stream = car.generate({ model: endless, prompt: 'x' });
    assert.equal((await stream.next()).value?.type, 'attempt');
    for (let i = 0; i < 50; i++) await car.request('ping');
    const before = process.memoryUsage().rss;
    // What is in the way of an answer is read, and only that.
    for (let i = 0; i < 50; i++) await car.request('ping');
    const grown = process.memoryUsage().rss - before;
    assert.ok(grown < 100 * 1024 * 1024, `grown by ${grown} bytes`);
    await stream.return();
    assert.equal((await car.request('ping')).in_flight, 1);
  },
);

test('a slow reader gets every delta', bounded, async (t) => {
  const car = await startCar(t);
  const text = 'x'.repeat(1000);
  const model = await registerScript(car, [{ emit: { type: 'text_delta', text }, repeat: 5000 }]);
  let length = 0;
  for await (const event of car.generate({ model, prompt: 'x' })) {
    // Slower than the core, which writes on between two reads.
    if (length % 100_000 === 0) await car.request('ping');
    if (event.type === 'text_delta') length += event.text.length;
  }
  assert.equal(length, 5_000_000);
});

test('a runner runs a delegated model, in the pace of its reader', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerDelegated(car);
  /** @type {any} */
  let seen;
  await car.registerRunner(async (run, { emit }) => {
    seen = run;
    await emit({ type: 'text_delta', text: 'Hello ' });
    emit.nowait({ type: 'text_delta', text: 'from the cloud' });
    return { stop_reason: 'end_turn', usage: { prompt_tokens: 2 } };
  });
  const request = { model, prompt: 'Hello', params: { seed: 7 }, x_mine: [1] };
  const stream = car.generate(request);
  assert.equal(textOf(await collect(stream)), 'Hello from the cloud');
  assert.equal((await stream.result).stop_reason, 'end_turn');
  assert.deepEqual(seen.request, { stream: true, ...request });
  assert.equal(seen.hint, 'test');
});

test('a runner may use the core itself', bounded, async (t) => {
  const car = await startCar(t, {
    runner: async ({ request }, { emit }) => {
      const inner = car.generate({ model: 'test/script:1', prompt: String(request.prompt) });
      for await (const event of inner) if (event.type === 'text_delta') await emit(event);
    },
  });
  await registerScript(car, [{ echo: true }]);
  const model = await registerDelegated(car);
  const request = { model, prompt: 'one two three' };
  assert.equal((await car.generate(request).result).text, 'one two three');
});

test('a run that is too long for the app fails, and the next one is served', bounded, async (t) => {
  const car = await startCar(t, { maxMessageBytes: 20_000, runner: () => 'Hello' });
  const model = await registerDelegated(car);
  await assert.rejects(car.generate({ model, prompt: 'x'.repeat(30_000) }).result, {
    kind: 'message_too_large',
    local: false,
  });
  assert.equal((await car.generate({ model, prompt: 'x' }).result).text, 'Hello');
});

test('a runner that awaits its events is held while nobody reads them', bounded, async (t) => {
  const [count, text] = [300, 'x'.repeat(65_536)];
  const car = await startCar(t);
  const model = await registerDelegated(car);
  let sent = 0;
  await car.registerRunner(async (_, { emit }) => {
    for (; sent < count; sent += 1) await emit({ type: 'text_delta', text });
  });
  const stream = car.generate({ model, prompt: 'x' });
  let before;
  do {
    before = sent;
    for (let pings = 0; pings < 20; pings += 1) await car.request('ping', {});
  } while (sent === 0 || sent !== before);
  assert.ok(sent < count, `${sent} were sent to nobody`);
  let length = 0;
  for await (const event of stream) if (event.type === 'text_delta') length += event.text.length;
  assert.equal(length, count * text.length);
});

test('a runner fails with its kind, or with its name alone', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerDelegated(car);
  const request = /** @type {const} */ ({ model, prompt: 'x', recovery: 'none' });
  await assert.rejects(car.generate(request).result, { kind: 'no_runner' });

  await car.registerRunner(() => {
    throw new RunnerError('rate_limited', 'slow down', { status: 429, retryAfterMs: 1500 });
  });
  await assert.rejects(car.generate(request).result, (error) => {
    assert.ok(error instanceof CarError);
    assert.deepEqual(
      [error.kind, error.retryable, error.data.status, error.data.retry_after_ms],
      ['rate_limited', true, 429, 1500],
    );
    return true;
  });

  await car.registerRunner(() => {
    throw new Error('sk-secret');
  });
  await assert.rejects(car.generate(request).result, (error) => {
    assert.ok(error instanceof CarError);
    assert.equal(error.kind, 'runner_failed');
    assert.doesNotMatch(JSON.stringify(error), /secret/);
    assert.match(error.message, /the runner threw Error/);
    return true;
  });

  assert.deepEqual(await car.unregisterRunner(), { registered: false });
  await assert.rejects(car.generate(request).result, { kind: 'no_runner' });
});

test('a cancelled request aborts its runner', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerDelegated(car);
  const aborted = deferred();
  await car.registerRunner(async (_, { emit, signal }) => {
    await emit({ type: 'text_delta', text: 'Hel' });
    if (!signal.aborted) await once(signal, 'abort');
    aborted.resolve(signal.reason);
    throw signal.reason;
  });
  for await (const event of car.generate({ model, prompt: 'x' })) {
    if (event.type === 'text_delta') break;
  }
  assert.match(String(await aborted.promise), /the core cancelled the run/);
});

test('when the core is killed everything rejects and runners are aborted', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerDelegated(car);
  const noisy = await registerScript(car, [{ print: 'last words of a library\n' }], 'test/noisy:1');
  await car.generate({ model: noisy, prompt: 'x' }).result;
  const running = deferred();
  const aborted = /** @type {ReturnType<typeof deferred<unknown>>} */ (deferred());
  await car.registerRunner(async (_, { signal }) => {
    running.resolve();
    await once(signal, 'abort');
    aborted.resolve(signal.reason);
  });
  const stream = car.generate({ model, prompt: 'x' });
  const reading = assert.rejects(collect(stream), { kind: 'process_ended', signal: 'SIGKILL' });
  await running.promise;
  process.kill(car.pid, 'SIGKILL');
  await reading;
  await assert.rejects(stream.result, (error) => {
    assert.ok(error instanceof CarProcessError);
    assert.equal(error.exitCode, null);
    assert.match(error.stderr, /last words of a library/);
    return true;
  });
  assert.ok((await aborted.promise) instanceof CarProcessError);
});

test('closing during streams ends them, the process and its workers', bounded, async (t) => {
  const car = await startCar(t);
  const model = await registerScript(car, STALL);
  const streams = [car.generate({ model, prompt: 'x' }), car.generate({ model, prompt: 'y' })];
  const demo = car.generate({ prompt: 'Count.', params: { max_tokens: 400, ignore_eos: true } });
  for await (const event of demo) {
    if (event.type !== 'text_delta') continue;
    await car.close();
    break;
  }
  for (const stream of [...streams, demo]) {
    await assert.rejects(stream.result, { kind: 'cancelled', local: false });
  }
  assert.equal((await car.ended).exitCode, 0);
  await untilGone(car.pid);
});
