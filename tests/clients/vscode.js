// What editors speak: vscode-jsonrpc over Content-Length, with its own cancellation and progress.
// Usage: node vscode.js SCENARIO COMMAND...; it fails by itself when something is not as it should.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import rpc from 'vscode-jsonrpc/node';

const STALL = [{ emit: { type: 'text_delta', text: 'so far' } }, { stall: true }];

const scenarios = {
  async requests({ connection }) {
    const { models } = await connection.sendRequest('models.list', {});
    assert.ok(models.some((model) => model.id === 'demo/tiny-chat:gguf'));
    assert.equal((await connection.sendRequest('ping')).in_flight, 1);
    const wrong = await rejection(connection.sendRequest('models.get', { model: 5 }));
    assert.equal(wrong.code, rpc.ErrorCodes.InvalidParams);
    assert.equal(wrong.data.path, '$.model');
    const unknown = await rejection(connection.sendRequest('no.such', {}));
    assert.equal(unknown.code, rpc.ErrorCodes.MethodNotFound);
    await fake(connection, 't/echo:1', [{ echo: true }]);
    const prompt = 'Grüße \u2028 \u{1f600} '.repeat(20_000);
    const pings = Array.from({ length: 100 }, () => connection.sendRequest('ping'));
    const result = await connection.sendRequest('generate', { model: 't/echo:1', prompt });
    assert.equal(result.text, prompt);
    assert.equal((await Promise.all(pings)).length, 100);
  },

  async stream({ connection }) {
    await fake(connection, 't/count:1', [{ emit: { type: 'text_delta', text: 'x' }, repeat: 5000 }]);
    const events = collect(connection);
    const params = { model: 't/count:1', prompt: '', stream: true, client_ref: 'mine' };
    const result = await connection.sendRequest('generate', params);
    assert.deepEqual(events.map((each) => each.seq), [...events.keys()]);
    assert.equal(events.at(-1).event.type, 'done');
    const deltas = events.filter((each) => each.event.type === 'text_delta');
    assert.equal(deltas.map((each) => each.event.text).join(''), result.text);
    assert.equal(result.text.length, 5000);
  },

  async cancel({ connection }) {
    await fake(connection, 't/stall:1', STALL);
    const source = new rpc.CancellationTokenSource();
    connection.onNotification('generate.event', ({ event }) => {
      if (event.type === 'text_delta') source.cancel();
    });
    const params = { model: 't/stall:1', prompt: '', stream: true };
    const error = await rejection(connection.sendRequest('generate', params, source.token));
    assert.equal(error.code, -32800);
    assert.equal(error.data.partial.text, 'so far');
    // In the same turn as the request, which this library's own servers lose.
    const atOnce = new rpc.CancellationTokenSource();
    const cancelled = rejection(connection.sendRequest('generate', params, atOnce.token));
    atOnce.cancel();
    assert.equal((await cancelled).code, -32800);
  },

  async progress({ connection }) {
    await fake(connection, 't/echo:1', [{ echo: true }]);
    const seen = [];
    const listener = connection.onProgress(new rpc.ProgressType(), 'token', (value) => seen.push(value.kind));
    await connection.sendRequest('generate', { model: 't/echo:1', prompt: 'x', progress_token: 'token' });
    listener.dispose();
    assert.deepEqual(seen, ['begin', 'end']);
  },

  async runner({ connection }) {
    await connection.sendRequest('models.register', {
      model: { id: 't/app:1', source: { type: 'delegated' }, capabilities: ['generate'] },
    });
    connection.onRequest('runner.run', async ({ call_id, request }, token) => {
      const say = (text) => ({ call_id, event: { type: 'text_delta', text } });
      await connection.sendNotification('runner.event', say('by notification, '));
      const reply = await connection.sendRequest('runner.event', say('by request'));
      assert.deepEqual(reply, { emitted: true, closed: false });
      if (request.prompt === 'wait') {
        await new Promise((resolve) => token.onCancellationRequested(resolve));
        return new rpc.ResponseError(-32800, 'cancelled');
      }
      return { stop_reason: 'end_turn' };
    });
    await connection.sendRequest('runner.register', {});
    const events = collect(connection);
    const params = { model: 't/app:1', prompt: 'go', stream: true };
    const result = await connection.sendRequest('generate', params);
    assert.equal(result.text, 'by notification, by request');
    assert.equal(events.at(-1).event.type, 'done');
    const source = new rpc.CancellationTokenSource();
    connection.onNotification('generate.event', ({ event }) => {
      if (event.text === 'by request') source.cancel();
    });
    const waiting = { ...params, prompt: 'wait' };
    const error = await rejection(connection.sendRequest('generate', waiting, source.token));
    assert.equal(error.code, -32800);
    assert.equal(error.data.partial.text, 'by notification, by request');
  },

  async failing_runner({ connection }) {
    await connection.sendRequest('models.register', {
      model: { id: 't/app:1', source: { type: 'delegated' }, capabilities: ['generate'] },
    });
    await connection.sendRequest('runner.register', {});
    // Nobody handles it: the library answers "unhandled method" by itself.
    const none = await rejection(connection.sendRequest('generate', { model: 't/app:1', prompt: '' }));
    assert.equal(none.data.kind, 'no_runner');
    connection.onRequest('runner.run', () => {
      throw new rpc.ResponseError(429, 'slow down', { kind: 'rate_limited', retry_after_ms: 5 });
    });
    const limited = await rejection(connection.sendRequest('generate', { model: 't/app:1', prompt: '' }));
    assert.equal(limited.data.kind, 'rate_limited');
    assert.equal(limited.data.retry_after_ms, 5);
  },
};

function collect(connection) {
  const events = [];
  connection.onNotification('generate.event', (params) => events.push(params));
  return events;
}

async function fake(connection, id, script) {
  const model = { id, source: { type: 'fake', script }, capabilities: ['generate'] };
  await connection.sendRequest('models.register', { model });
}

async function rejection(promise) {
  const outcome = await promise.then((value) => ({ value }), (error) => ({ error }));
  assert.ok(outcome.error instanceof rpc.ResponseError, JSON.stringify(outcome));
  return outcome.error;
}

const [scenario, command, ...words] = process.argv.slice(2);
const core = spawn(command, words, { stdio: ['pipe', 'pipe', 'inherit'] });
const connection = rpc.createMessageConnection(core.stdout, core.stdin);
connection.onError(([error]) => assert.fail(error));
connection.listen();
const server = await connection.sendRequest('initialize', { protocol_version: 1, process_id: process.pid });
assert.equal(server.protocol_version, 1);
await scenarios[scenario]({ connection });
assert.equal(await connection.sendRequest('shutdown'), null);
await connection.sendNotification('exit');
const [code] = await once(core, 'exit');
assert.equal(code, 0);
console.log(`${scenario} is as it should be`);
