import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CANCEL_TIMEOUT_MS } from '../src/connection.js';
import { CarError, CarProcessError } from '../src/errors.js';
import { makeConnection } from './support/connection.js';

test('requests have ids from 1 and get their own answers in any order', async () => {
  const { connection, sent, receive } = makeConnection();
  const first = connection.request('a', { x: 1 });
  const second = connection.request('b', {});
  assert.deepEqual(sent, [
    { jsonrpc: '2.0', id: 1, method: 'a', params: { x: 1 } },
    { jsonrpc: '2.0', id: 2, method: 'b', params: {} },
  ]);
  receive({ id: 2, result: 'two' }, { id: 1, result: null });
  assert.deepEqual(await Promise.all([first, second]), [null, 'two']);
});

test('an answer with the same digits as a string, or to nobody, is ignored', async () => {
  const { connection, receive, problems } = makeConnection();
  const answer = connection.request('a', {});
  receive({ id: '1', result: 'wrong' }, { id: 7, result: 'wrong' }, { id: 0, error: { code: 1 } });
  receive({ id: 1, result: 'right' }, { id: 1, result: 'too late' });
  assert.equal(await answer, 'right');
  assert.deepEqual(problems, []);
});

test('an error has the kind, the code and the data of the core', async () => {
  const { connection, receive } = makeConnection();
  const answer = connection.request('a', {});
  const data = { kind: 'rate_limited', retryable: true, retry_after_ms: 5 };
  receive({ id: 1, error: { code: 1002, message: 'rate limited: x', data } });
  await assert.rejects(answer, (error) => {
    assert.ok(error instanceof CarError);
    assert.equal(error.message, 'rate limited: x');
    assert.deepEqual(
      [error.kind, error.code, error.retryable, error.local],
      ['rate_limited', 1002, true, false],
    );
    assert.deepEqual(error.data, data);
    return true;
  });
});

test('an error without data is internal, and an answer with nothing is malformed', async () => {
  const { connection, receive } = makeConnection();
  const answers = [connection.request('a', {}), connection.request('b', {})];
  receive({ id: 1, error: { code: -32603, message: 'x' } }, { id: 2 });
  await assert.rejects(/** @type {any} */ (answers[0]), { kind: 'internal', retryable: false });
  await assert.rejects(/** @type {any} */ (answers[1]), { kind: 'malformed_message', local: true });
});

test('requests of the core reach their handler with exactly their id', () => {
  const { connection, sent, receive, requests } = makeConnection();
  receive({ id: 0, method: 'ping', params: {} }, { id: '', method: 'ping' });
  assert.deepEqual(requests, [
    [0, 'ping', {}],
    ['', 'ping', {}],
  ]);
  connection.respond(0, { result: {} });
  connection.respond('', { error: { code: -32601, message: 'no' } });
  assert.deepEqual(sent, [
    { jsonrpc: '2.0', id: 0, result: {} },
    { jsonrpc: '2.0', id: '', error: { code: -32601, message: 'no' } },
  ]);
});

test('lines that are no message are reported and survived', async () => {
  const { connection, receiveText, problems } = makeConnection();
  const answer = connection.request('a', {});
  receiveText('Loading model...\n{"half":\n[1]\n7\nnull\n"x"\n{}\n');
  receiveText('{"jsonrpc":"2.0","id":1,"result":true}\n');
  assert.equal(await answer, true);
  assert.deepEqual(problems, ['Loading model...', '{"half":', '[1]', '7', 'null', '"x"', '{}']);
});

test('an answer that is too long fails its request, and the next one comes', async () => {
  const { connection, receive } = makeConnection({ maxMessageBytes: 200 });
  const answers = [connection.request('a', {}), connection.request('b', {})];
  receive({ id: 1, result: 'x'.repeat(300) }, { id: 2, result: 'short' });
  await assert.rejects(/** @type {any} */ (answers[0]), { kind: 'message_too_large', local: true });
  assert.equal(await answers[1], 'short');
});

test('a request that is too long is answered, and the next one comes', () => {
  const { receive, sent, requests, problems } = makeConnection({ maxMessageBytes: 200 });
  const params = { request: 'x'.repeat(300) };
  receive(
    { id: 'car-"1"', method: 'runner.run', params },
    { id: 7, method: 'runner.run', params },
    { id: 'car-2', method: 'runner.run', params: {} },
  );
  assert.deepEqual(
    sent.map(({ id }) => id),
    ['car-"1"', 7],
  );
  const { code, message, data } = sent[0].error;
  assert.equal(code, 1025);
  assert.equal(message, 'runner.run is longer than maxMessageBytes of the app');
  assert.deepEqual(data, { kind: 'message_too_large', retryable: false });
  assert.equal(problems.length, 2);
  assert.deepEqual(
    requests.map(([id]) => id),
    ['car-2'],
  );
});

test('a request that is too long and has the number of one of ours fails none of ours', async () => {
  const { connection, receive, sent } = makeConnection({ maxMessageBytes: 200 });
  const answer = connection.request('a', {});
  receive({ id: 1, method: 'runner.run', params: 'x'.repeat(300) }, { id: 1, result: 'ours' });
  assert.equal(await answer, 'ours');
  assert.equal(sent[1].error.code, 1025);
});

test('another line that is too long is reported', () => {
  const { receiveText, problems } = makeConnection({ maxMessageBytes: 200 });
  receiveText(`${'#'.repeat(300)}\n`);
  assert.equal(problems.length, 1);
  assert.match(String(problems[0]), /^too long: #+$/);
});

test('an aborted signal sends a cancel, and the answer to the request comes with its reason', async () => {
  const { connection, sent, receive } = makeConnection();
  const controller = new AbortController();
  const answer = connection.request('generate', {}, controller.signal);
  controller.abort(new Error('the window was closed'));
  assert.deepEqual(sent.at(-1), { jsonrpc: '2.0', method: '$/cancelRequest', params: { id: 1 } });
  const data = { kind: 'cancelled', partial: { text: 'Hel' } };
  receive({ id: 1, error: { code: -32800, message: 'cancelled', data } });
  await assert.rejects(answer, (error) => {
    assert.ok(error instanceof CarError);
    assert.equal(error.kind, 'cancelled');
    assert.equal(error.local, false);
    assert.deepEqual(error.data.partial, { text: 'Hel' });
    assert.equal(/** @type {Error} */ (error.cause).message, 'the window was closed');
    return true;
  });
});

test('a result that is faster than the cancel counts', async () => {
  const { connection, receive } = makeConnection();
  const controller = new AbortController();
  const answer = connection.request('a', {}, controller.signal);
  controller.abort();
  receive({ id: 1, result: 'done' });
  assert.equal(await answer, 'done');
});

test('a signal that was aborted before sends nothing', async () => {
  const { connection, sent } = makeConnection();
  const answer = connection.request('a', {}, AbortSignal.abort('too late'));
  await assert.rejects(answer, { kind: 'cancelled', local: true, cause: 'too late' });
  assert.deepEqual(sent, []);
});

test('a request is cancelled once, and an aborted signal after the answer does nothing', async () => {
  const { connection, sent, receive } = makeConnection();
  const controller = new AbortController();
  const call = connection.begin('a', {}, { signal: controller.signal });
  const cancelled = Promise.all([connection.cancel(call), connection.cancel(call)]);
  receive({ id: 1, result: 1 });
  await cancelled;
  controller.abort();
  assert.equal(sent.filter(({ method }) => method === '$/cancelRequest').length, 1);
});

test('a cancel that is not confirmed ends after its time', async (t) => {
  t.mock.timers.enable({ apis: ['setTimeout'] });
  const { connection, receive } = makeConnection();
  const call = connection.begin('a', {});
  const cancelled = connection.cancel(call, 'why');
  t.mock.timers.tick(CANCEL_TIMEOUT_MS);
  await cancelled;
  await assert.rejects(call.result, { kind: 'cancelled', local: true, cause: 'why' });
  receive({ id: 1, result: 'late' });
});

test('a lost process rejects what is pending and what comes later with one error', async () => {
  const { connection, sent } = makeConnection();
  const pending = connection.request('a', {});
  const lost = new CarProcessError('gone', { kind: 'process_ended', exitCode: 3 });
  connection.lose(lost);
  await assert.rejects(pending, lost);
  await assert.rejects(connection.request('b', {}), lost);
  connection.notify('exit', {});
  connection.respond(1, { result: {} });
  assert.equal(sent.length, 1);
});

test('an answer without a line feed at the very end still counts', async () => {
  const { connection, receiveText } = makeConnection();
  const answer = connection.request('a', {});
  receiveText('{"jsonrpc":"2.0","id":1,"result":"last words"}');
  connection.lose(new CarError('gone', { kind: 'process_ended', local: true }));
  assert.equal(await answer, 'last words');
});

test('params that JSON cannot say reject and leave nothing pending', async () => {
  const { connection, sent } = makeConnection();
  await assert.rejects(connection.request('a', { big: 1n }), TypeError);
  assert.deepEqual(sent, []);
  assert.equal(connection.isFull, false);
});

test('a core that does not read gets no more requests, but cancels', async () => {
  const { connection, output, sent } = makeConnection();
  const call = connection.begin('a', {});
  output.full = true;
  await assert.rejects(connection.request('b', {}), { kind: 'overloaded', local: true });
  connection.cancel(call);
  assert.deepEqual(
    sent.map(({ method }) => method),
    ['a', '$/cancelRequest'],
  );
  connection.lose(new CarError('end', { kind: 'closed', local: true }));
});

test('messages leave as lines', () => {
  const { connection, output } = makeConnection();
  connection.notify('x', { text: 'a\nb' });
  assert.deepEqual(output.lines, ['{"jsonrpc":"2.0","method":"x","params":{"text":"a\\nb"}}\n']);
});
