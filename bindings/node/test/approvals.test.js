import assert from 'node:assert/strict';
import { test } from 'node:test';

import { Approvals } from '../src/approvals.js';
import { makeConnection } from './support/connection.js';
import { deferred } from './support/helpers.js';

const QUESTION = /** @type {import('../src/wire/index.js').PolicyApproveParams} */ ({
  approval_id: 'ap_1',
  trace_id: 'tr_1',
  rule_id: 'ask',
  subject: { method: 'generate', model: 'a/b:c' },
  deadline_ms: 1000,
});

/** @param {import('../src/approvals.js').Approve} [approve] */
function makeApprovals(approve) {
  const made = makeConnection();
  /** @type {unknown[]} */
  const thrown = [];
  const approvals = new Approvals(made.connection, approve, (error) => thrown.push(error));
  return { ...made, approvals, thrown };
}

/** @param {import('../src/approvals.js').Approve} [approve] */
async function answerOf(approve) {
  const made = makeApprovals(approve);
  await made.approvals.start('car-1', QUESTION);
  assert.equal(made.sent.length, 1);
  assert.equal(made.sent[0].id, 'car-1');
  return { ...made.sent[0], thrown: made.thrown };
}

test('the app is asked, and says yes, no, or why not', async () => {
  const asked = await answerOf((question) => question.rule_id === 'ask');
  assert.deepEqual(asked.result, { approved: true });
  assert.deepEqual((await answerOf(async () => false)).result, { approved: false });
  const said = { approved: false, reason: 'not today' };
  assert.deepEqual((await answerOf(() => said)).result, said);
});

test('whatever is no yes is a no', async () => {
  const answers = /** @type {any[]} */ ([undefined, null, 'yes', { approved: 'yes' }, {}]);
  for (const answer of answers) {
    const { result } = await answerOf(() => answer);
    assert.equal(result.approved, false);
  }
});

test('an app that throws approves of nothing, and only the app learns what it threw', async () => {
  const { result, thrown } = await answerOf(() => {
    throw new Error('secret');
  });
  assert.deepEqual(result, { approved: false, reason: "the app's approval threw" });
  assert.match(String(thrown[0]), /secret/);
});

test('without a function nobody approves', async () => {
  const { error } = await answerOf();
  assert.equal(error.code, -32601);
});

test('a question that is withdrawn is answered at once, and once', async () => {
  const waiting = deferred();
  /** @type {AbortSignal | undefined} */
  let signal;
  const { approvals, sent } = makeApprovals((_, tools) => {
    signal = tools.signal;
    return /** @type {Promise<any>} */ (waiting.promise);
  });
  const answered = approvals.start('car-1', QUESTION);
  approvals.cancel('car-1');
  await answered;
  assert.equal(signal?.aborted, true);
  assert.equal(sent[0].error.code, -32800);
  waiting.resolve();
  await waiting.promise;
  assert.equal(sent.length, 1);
});
