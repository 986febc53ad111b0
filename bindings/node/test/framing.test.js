import assert from 'node:assert/strict';
import { test } from 'node:test';

import { LineSplitter, encode } from '../src/framing.js';

const SAMPLE = Buffer.from('{"a":"Grüße 👋"}\r\n\n  \n{"b":"\u2028\u2029\u0085"}\n{"c":3}');
const LINES = ['{"a":"Grüße 👋"}', '{"b":"\u2028\u2029\u0085"}', '{"c":3}'];

/** @param {Uint8Array[]} chunks */
function split(chunks, maxBytes = 1000) {
  const splitter = new LineSplitter(maxBytes);
  return [...chunks.flatMap((chunk) => splitter.receive(chunk)), ...splitter.receiveEnd()];
}

test('a stream that is cut anywhere gives the same lines', () => {
  for (let cut = 0; cut <= SAMPLE.length; cut++) {
    const lines = split([SAMPLE.subarray(0, cut), SAMPLE.subarray(cut)]);
    assert.deepEqual(
      lines.map((line) => line.text),
      LINES,
      `cut at ${cut}`,
    );
  }
});

test('a stream that comes byte by byte gives the same lines', () => {
  const lines = split([...SAMPLE].map((byte) => Uint8Array.of(byte)));
  assert.deepEqual(
    lines.map((line) => line.text),
    LINES,
  );
});

test('a byte order mark is skipped at the beginning only', () => {
  const lines = split([Buffer.from('\ufeff{"a":1}\n\ufeff{"b":2}\n')]);
  assert.deepEqual(
    lines.map((line) => line.text),
    ['{"a":1}', '\ufeff{"b":2}'],
  );
});

test('a line as long as allowed is whole, its carriage return not counted', () => {
  const lines = split([Buffer.from('12345678\r\n12345678\n')], 8);
  assert.deepEqual(lines, [
    { text: '12345678', tooLong: false },
    { text: '12345678', tooLong: false },
  ]);
});

test('a longer line is dropped wherever it is cut, and the next one is whole', () => {
  const bytes = Buffer.from('123456789\n{"a":1}\n');
  for (let cut = 0; cut <= bytes.length; cut++) {
    const lines = split([bytes.subarray(0, cut), bytes.subarray(cut)], 8);
    assert.deepEqual(lines, [
      { text: '12345678', tooLong: true },
      { text: '{"a":1}', tooLong: false },
    ]);
  }
});

test('many small chunks of one line are not copied again and again', () => {
  const splitter = new LineSplitter(64 * 1024 * 1024);
  const chunk = Buffer.alloc(16, 'x');
  for (let i = 0; i < 200_000; i++) assert.equal(splitter.receive(chunk).length, 0);
  const [line] = splitter.receive(Buffer.from('\n'));
  assert.equal(line?.text.length, 16 * 200_000);
});

test('a message is one line, whatever its text', () => {
  const text = encode({ text: 'a\nb\r\u2028"\\' });
  assert.equal(text.indexOf('\n'), text.length - 1);
  assert.deepEqual(JSON.parse(text), { text: 'a\nb\r\u2028"\\' });
});

test('a lone surrogate becomes the replacement character', () => {
  const message = { lone: 'a\ud800b\udc00', pair: '👋', text: '\\ud800', '\udfff': 1 };
  assert.deepEqual(JSON.parse(encode(message)), {
    lone: 'a\ufffdb\ufffd',
    pair: '👋',
    text: '\\ud800',
    '\ufffd': 1,
  });
});
