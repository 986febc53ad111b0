import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CarError, RunnerError } from '../src/errors.js';
import { RunnerRuns } from '../src/runner.js';
import { makeConnection } from './support/connection.js';
import { deferred } from './support/helpers.js';

const RUN = /** @type {import('../src/runner.js').RunnerRun} */ ({
  call_id: 'call_1',
  parent_id: 1,
  trace_id: 'tr_1',
  attempt: 1,
  operation: 'generate',
  hint: null,
  model: 'a/b:c',
  request: { prompt: 'Hello' },
  deadline_ms: 1000,
});

/** @param {import('../src/runner.js').Runner} [runner] */
function makeRuns(runner) {
  const made = makeConnection();
  /** @type {unknown[]} */
  const thrown = [];
  const runs = new RunnerRuns(made.connection, (error) => thrown.push(error));
  runs.runner = runner;
  return { ...made, runs, thrown };
}

/** @param {import('../src/runner.js').Runner} runner */
async function outcomeOf(runner) {
  const made = makeRuns(runner);
  await made.runs.start('car-1', RUN);
  assert.equal(made.sent.length, 1);
  assert.equal(made.sent[0].id, 'car-1');
  return { ...made.sent[0], thrown: made.thrown };
}

test('a runner gets the run with exactly what the client set', async () => {
  const { result } = await outcomeOf(async (run) => JSON.stringify(run.request));
  assert.deepEqual(result, { text: '{"prompt":"Hello"}' });
});

test('a runner returns nothing, a text, or a result', async () => {
  assert.deepEqual((await outcomeOf(() => {})).result, {});
  assert.deepEqual((await outcomeOf(() => 'Hello')).result, { text: 'Hello' });
  assert.deepEqual((await outcomeOf(() => '')).result, { text: '' });
  const result = /** @type {const} */ ({ text: 'x', stop_reason: 'max_tokens' });
  assert.deepEqual((await outcomeOf(async () => result)).result, result);
});

test('anything else fails the run', async () => {
  const { error } = await outcomeOf(() => /** @type {any} */ (['Hello']));
  assert.equal(error.data.kind, 'runner_failed');
});

test('a result that JSON cannot say fails the run', async () => {
  const { error } = await outcomeOf(() => /** @type {any} */ ({ usage: { total_tokens: 1n } }));
  assert.equal(error.data.kind, 'runner_failed');
});

test('a RunnerError goes over as it is', async () => {
  const { error } = await outcomeOf(() => {
    const options = { status: 429, retryAfterMs: 1500, retryable: true };
    throw new RunnerError('rate_limited', 'slow down', options);
  });
  assert.equal(error.message, 'slow down');
  assert.deepEqual(error.data, {
    kind: 'rate_limited',
    status: 429,
    retry_after_ms: 1500,
    retryable: true,
  });
});

test('of anything else that is thrown only its name goes over', async () => {
  const secret = new TypeError('cannot read sk-secret at /home/me/app.js');
  const { error, thrown } = await outcomeOf(async () => {
    throw secret;
  });
  assert.equal(error.message, 'the runner threw TypeError');
  assert.deepEqual(error.data, { kind: 'runner_failed' });
  assert.deepEqual(thrown, [secret]);
  assert.equal(
    (await outcomeOf(() => Promise.reject('sk-secret'))).error.message,
    'the runner threw string',
  );
});

test('without a runner the core is told that there is none', async () => {
  const { runs, sent } = makeRuns();
  await runs.start(0, RUN);
  assert.equal(sent[0].id, 0);
  assert.equal(sent[0].error.code, -32601);
});

test('emit waits for the core, and tells whether anybody listens', async () => {
  const { runs, sent, receive } = makeRuns(async (_, { emit }) => {
    const first = await emit({ type: 'text_delta', text: 'a' });
    const second = await emit({ type: 'text_delta', text: 'b' });
    return JSON.stringify([first, second]);
  });
  const started = runs.start('car-1', RUN);
  assert.deepEqual(sent[0], {
    jsonrpc: '2.0',
    id: 1,
    method: 'runner.event',
    params: { call_id: 'call_1', event: { type: 'text_delta', text: 'a' } },
  });
  await new Promise(setImmediate);
  assert.equal(sent.length, 1, 'the second event waits for the answer to the first');
  receive({ id: 1, result: { emitted: true, closed: false } });
  await new Promise(setImmediate);
  receive({ id: 2, result: { emitted: false, closed: true } });
  await started;
  assert.deepEqual(JSON.parse(sent[2].result.text), [
    { emitted: true, closed: false },
    { emitted: false, closed: true },
  ]);
});

test('emit.nowait sends a notification, and fails the run when too much is not sent', async () => {
  const { runs, sent, output } = makeRuns((_, { emit, signal }) => {
    const taken = emit.nowait({ type: 'text_delta', text: 'a' });
    output.full = true;
    assert.deepEqual([taken, emit.nowait({ type: 'text_delta', text: 'b' })], [true, false]);
    assert.ok(signal.aborted);
    return 'all of it';
  });
  await runs.start('car-1', RUN);
  assert.deepEqual(sent[0], {
    jsonrpc: '2.0',
    method: 'runner.event',
    params: { call_id: 'call_1', event: { type: 'text_delta', text: 'a' } },
  });
  const { kind, retryable } = sent[1].error.data;
  assert.deepEqual([kind, retryable], ['runner_failed', false]);
});

test('a runner that is too far ahead at once, and hangs, is answered for', async () => {
  const { runs, sent, output } = makeRuns((_, { emit }) => {
    output.full = true;
    emit.nowait({ type: 'text_delta', text: 'a' });
    return new Promise(() => {});
  });
  await runs.start('car-1', RUN);
  assert.equal(sent[0].error.data.cause, 'backpressure');
});

test('whatever a runner throws, its run is answered', async () => {
  const hostile = Object.create(Error.prototype, {
    name: {
      get() {
        throw new Error('no name');
      },
    },
  });
  const { runs, sent } = makeRuns(() => {
    throw hostile;
  });
  await runs.start('car-1', RUN);
  assert.equal(sent[0].error.data.kind, 'runner_failed');
});

test('a cancel aborts the signal, and the run is answered once', async () => {
  const { runs, sent } = makeRuns(async (_, { signal }) => {
    const aborted = deferred();
    signal.addEventListener('abort', () => aborted.reject(signal.reason));
    await aborted.promise;
  });
  const started = runs.start('car-1', RUN);
  runs.cancel('car-2');
  runs.cancel('car-1');
  runs.cancel('car-1');
  await started;
  assert.equal(sent.length, 1);
  assert.equal(sent[0].error.code, -32800);
  assert.equal(sent[0].error.data.kind, 'cancelled');
});

test('a runner that has a result in spite of a cancel sends it', async () => {
  const { runs, sent } = makeRuns(async (_, { signal }) => {
    await new Promise((resolve) => signal.addEventListener('abort', resolve));
    return 'so far';
  });
  const started = runs.start('car-1', RUN);
  runs.cancel('car-1');
  await started;
  assert.deepEqual(sent[0].result, { text: 'so far' });
});

test('a runner that does not hear a cancel is answered for, and its events go nowhere', async () => {
  const stuck = deferred();
  /** @type {import('../src/runner.js').Emit | undefined} */
  let emit;
  const { runs, sent } = makeRuns(async (_, tools) => {
    emit = tools.emit;
    await stuck.promise;
    return 'too late';
  });
  const started = runs.start('car-1', RUN);
  runs.cancel('car-1');
  await started;
  assert.equal(sent[0].error.data.kind, 'cancelled');
  stuck.resolve();
  await new Promise(setImmediate);
  assert.deepEqual(await emit?.({ type: 'heartbeat' }), { emitted: false, closed: true });
  assert.equal(emit?.nowait({ type: 'heartbeat' }), false);
  assert.equal(sent.length, 1);
});

test('when the core is gone the signal is aborted with the reason, and emit tells', async () => {
  const lost = new CarError('gone', { kind: 'process_ended', local: true });
  /** @type {unknown[]} */
  const seen = [];
  const { runs, connection, sent } = makeRuns(async (_, { emit, signal }) => {
    seen.push(await emit({ type: 'heartbeat' }), signal.reason);
  });
  const started = runs.start('car-1', RUN);
  connection.lose(lost);
  runs.abandon(lost);
  await started;
  assert.deepEqual(seen, [{ emitted: false, closed: true }, lost]);
  assert.equal(sent.length, 1, 'the event, and no answer to a core that is gone');
});

test('an event that the core refuses rejects for whoever looks, and only there', async () => {
  const { runs, sent, receive } = makeRuns(async (_, { emit }) => {
    emit(/** @type {any} */ ({ type: 7 }));
    await assert.rejects(emit(/** @type {any} */ ({ type: 8 })), { kind: 'invalid_params' });
    return 'done';
  });
  const started = runs.start('car-1', RUN);
  const error = { code: -32602, message: 'x', data: { kind: 'invalid_params' } };
  receive({ id: 1, error }, { id: 2, error });
  await started;
  assert.deepEqual(sent.at(-1).result, { text: 'done' });
});
