import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Tail } from '../src/tail.js';

test('a short text is kept whole', () => {
  const tail = new Tail(10);
  tail.add(Buffer.from('abc'));
  tail.add(Buffer.from('def'));
  assert.equal(tail.toString(), 'abcdef');
});

test('of a long text the end is kept', () => {
  const tail = new Tail(4);
  for (const text of ['abcdefgh', 'i', 'jk', 'l']) tail.add(Buffer.from(text));
  assert.equal(tail.toString(), 'ijkl');
});

test('a character that the cut goes through is left out', () => {
  const tail = new Tail(5);
  tail.add(Buffer.from('x👋ü👋'));
  assert.equal(tail.toString(), '👋');
});

test('what is dropped is not kept in memory', () => {
  const tail = new Tail(1000);
  for (let i = 0; i < 100_000; i++) tail.add(Buffer.alloc(100, String(i % 10)));
  assert.equal(tail.toString().length, 1000);
});
