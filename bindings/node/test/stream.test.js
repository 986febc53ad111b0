import assert from 'node:assert/strict';
import { test } from 'node:test';

import { CarError } from '../src/errors.js';
import { EventStream, STREAM_BEHIND_BYTES, STREAM_MAX_BYTES } from '../src/stream.js';
import { makeConnection } from './support/connection.js';
import { collect } from './support/helpers.js';

/** An event that takes about a hundredth of what makes a reader count as behind. */
const LARGE = { type: 'text_delta', text: 'x'.repeat(STREAM_BEHIND_BYTES / 100) };

/** @param {{ signal?: AbortSignal }} [options] */
function makeStream({ signal } = {}) {
  const made = makeConnection();
  /** @type {EventStream<any, any>} */
  const stream = new EventStream(made.connection, 'generate', { prompt: 'x' }, signal);
  const event = (/** @type {object} */ event, request_id = 1) => ({
    method: 'generate.event',
    params: { request_id, seq: 0, event },
  });
  const deliver = (/** @type {object[]} */ ...events) =>
    made.receive(...events.map((each) => event(each)));
  return { ...made, stream, deliver };
}

test('events come in order, and then the result', async () => {
  const { stream, deliver, receive } = makeStream();
  deliver({ n: 1 }, { n: 2 });
  const first = await stream.next();
  deliver({ n: 3 });
  receive({ id: 1, result: 'all' });
  assert.deepEqual([first.value, ...(await collect(stream))], [{ n: 1 }, { n: 2 }, { n: 3 }]);
  assert.equal(await stream.result, 'all');
  assert.deepEqual(await collect(stream), []);
});

test('several calls of next may wait at once', async () => {
  const { stream, deliver, receive } = makeStream();
  const waiting = [stream.next(), stream.next(), stream.next()];
  deliver({ n: 1 }, { n: 2 });
  receive({ id: 1, result: null });
  assert.deepEqual(await Promise.all(waiting), [
    { done: false, value: { n: 1 } },
    { done: false, value: { n: 2 } },
    { done: true, value: undefined },
  ]);
});

test('a failure comes after the events, once, and is what the result rejects with', async () => {
  const { stream, deliver, receive } = makeStream();
  deliver({ type: 'error' });
  receive({ id: 1, error: { code: 1018, message: 'x', data: { kind: 'inference_failed' } } });
  assert.deepEqual((await stream.next()).value, { type: 'error' });
  /** @type {unknown} */
  let thrown;
  await assert.rejects(stream.next(), (error) => {
    thrown = error;
    return error instanceof CarError && error.kind === 'inference_failed';
  });
  assert.deepEqual(await stream.next(), { done: true, value: undefined });
  await assert.rejects(stream.result, (error) => error === thrown);
});

test('leaving the loop cancels the request and waits for the answer', async () => {
  const { stream, deliver, receive, sent } = makeStream();
  deliver({ n: 1 }, { n: 2 });
  let left = false;
  const loop = (async () => {
    for await (const event of stream) if (event.n === 1) break;
    left = true;
  })();
  await new Promise(setImmediate);
  assert.deepEqual(sent.at(-1), { jsonrpc: '2.0', method: '$/cancelRequest', params: { id: 1 } });
  assert.equal(left, false);
  receive({ id: 1, error: { code: -32800, message: 'cancelled', data: { kind: 'cancelled' } } });
  await loop;
  assert.deepEqual(await collect(stream), []);
  await assert.rejects(stream.result, { kind: 'cancelled' });
});

test('leaving after the end sends nothing', async () => {
  const { stream, deliver, receive, sent } = makeStream();
  deliver({ n: 1 });
  receive({ id: 1, result: null });
  for await (const _ of stream) break;
  assert.equal(sent.length, 1);
});

test('aborting drops what was not read, and the loop throws once it is confirmed', async () => {
  const controller = new AbortController();
  const { stream, deliver, receive } = makeStream({ signal: controller.signal });
  deliver({ n: 1 }, { n: 2 });
  controller.abort('enough');
  deliver({ n: 3 });
  receive({ id: 1, error: { code: -32800, message: 'cancelled', data: { kind: 'cancelled' } } });
  await assert.rejects(stream.next(), { kind: 'cancelled', cause: 'enough' });
});

test('a request that cannot be sent is a stream that fails', async () => {
  const { stream, sent } = makeStream({ signal: AbortSignal.abort() });
  await assert.rejects(collect(stream), { kind: 'cancelled', local: true });
  assert.deepEqual(sent, []);
});

test('reading stops while nothing but unread events would come', async () => {
  const { stream, deliver, output } = makeStream();
  for (let i = 0; i < 100; i++) deliver(LARGE);
  assert.equal(output.wanted, false);
  await stream.next();
  assert.equal(output.wanted, false, 'not at every event');
  for (let i = 0; i < 50; i++) await stream.next();
  assert.equal(output.wanted, true);
});

test('reading goes on while another request waits, and stops with its answer', async () => {
  const { deliver, receive, output, connection } = makeStream();
  for (let i = 0; i < 110; i++) deliver(LARGE);
  assert.equal(output.wanted, false);
  const other = connection.request('ping', {});
  assert.equal(output.wanted, true);
  receive({ id: 2, result: 'pong' });
  assert.equal(await other, 'pong');
  assert.equal(output.wanted, false);
});

test('reading goes on for whoever waits for the result, cancels, or closes', async () => {
  for (const want of [
    (/** @type {ReturnType<typeof makeStream>} */ { stream }) => void stream.result,
    (/** @type {ReturnType<typeof makeStream>} */ { stream }) => void stream.return(),
    (/** @type {ReturnType<typeof makeStream>} */ { connection }) =>
      void connection.request('shutdown', {}),
  ]) {
    const made = makeStream();
    for (let i = 0; i < 110; i++) made.deliver(LARGE);
    want(made);
    made.deliver(LARGE);
    assert.equal(made.output.wanted, true);
    made.receive({ id: 1, result: null });
  }
});

test('beyond the bound events are dropped, and a late reader is told', async () => {
  const { stream, deliver, receive } = makeStream();
  const result = stream.result;
  const count = Math.ceil(STREAM_MAX_BYTES / LARGE.text.length) + 10;
  for (let i = 0; i < count; i++) deliver(LARGE);
  receive({ id: 1, result: 'all the same' });
  assert.equal(await result, 'all the same');
  let read = 0;
  const reading = (async () => {
    for await (const _ of stream) read += 1;
  })();
  await assert.rejects(reading, { kind: 'stream_overflow', local: true });
  assert.ok(read > 0 && read < count);
});

test('beyond the bound a request whose result nobody waits for is cancelled', async () => {
  const { stream, deliver, receive, sent, connection } = makeStream();
  const other = connection.request('embed', {});
  while (sent.length < 3) deliver(LARGE);
  assert.deepEqual(sent[2], { jsonrpc: '2.0', method: '$/cancelRequest', params: { id: 1 } });
  receive({ id: 1, error: { code: -32800, message: 'cancelled', data: { kind: 'cancelled' } } });
  receive({ id: 2, result: null });
  await other;
  await assert.rejects(collect(stream), { kind: 'stream_overflow' });
});

test('when the process is lost, what came before is read before the error', async () => {
  const { stream, deliver, connection } = makeStream();
  deliver({ n: 1 });
  const lost = new CarError('gone', { kind: 'process_ended', local: true });
  connection.lose(lost);
  assert.deepEqual((await stream.next()).value, { n: 1 });
  await assert.rejects(stream.next(), lost);
});
