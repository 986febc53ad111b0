/** The examples run as they stand, and leave nothing behind when they are interrupted. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { COMMAND, REPOSITORY, temporaryFolder, untilGone } from './support/helpers.js';

const bounded = { timeout: 60_000 };

/**
 * @param {import('node:test').TestContext} t
 * @param {string} example
 */
function start(t, example) {
  const folder = temporaryFolder(t);
  const env = { ...process.env, ...(COMMAND && { CAR_RPC_COMMAND: COMMAND }), TMPDIR: folder };
  const app = spawn(process.execPath, [join(REPOSITORY, 'examples', example, 'main.js')], { env });
  t.after(() => app.kill('SIGKILL'));
  app.stderr.pipe(process.stderr);
  const printed = { text: '' };
  app.stdout.setEncoding('utf8').on('data', (text) => {
    printed.text += text;
    app.stdout.emit('printed');
  });
  return { app, folder, printed };
}

/**
 * @param {import('node:test').TestContext} t
 * @param {string} example
 */
async function outputOf(t, example) {
  const { app, folder, printed } = start(t, example);
  const [exitCode] = await once(app, 'close');
  assert.equal(exitCode, 0, printed.text);
  assert.deepEqual(readdirSync(folder), []);
  return printed.text;
}

test('node-local streams, stops in the middle, and closes', bounded, async (t) => {
  const output = await outputOf(t, 'node-local');
  assert.match(
    output,
    /The whole answer: Once upon a time.*\.\n\(demo\/.*: \d+ tokens in \d+ ms\)/s,
  );
  assert.match(output, /The first words: Once upon a time.*\n\(then: cancelled\)/s);
  assert.match(output, /closed, exit code 0\n$/);
});

test('node-runner streams, calls a tool, cancels, and maps errors', bounded, async (t) => {
  const output = await outputOf(t, 'node-runner');
  for (const expected of [
    '  Once upon a time, a model ran far away. \n  (end_turn, 16 tokens)\n',
    '  get_weather({"city":"Paris"})\n',
    'a letter over seven hills and never dropped it. \n  (continued 1 time)\n',
    '  on and on and on and on and on and ...\n  cancelled (cancelled): as wished\n',
    '  (and the provider has seen its client hang up)\n',
    '  rate_limited (rate limited: too many requests): try again after 2000 ms\n',
    '  provider_error (provider error: something went wrong): try again\n',
    '  unauthorized (unauthorized: the key is not valid): give up\n',
    'closed, exit code 0\n',
  ]) {
    assert.ok(output.includes(expected), `${expected} in\n${output}`);
  }
});

test('node-cassette tests an app without models, keys, network or state', bounded, async (t) => {
  const folder = temporaryFolder(t);
  const nowhere = 'http://127.0.0.1:9';
  const env = {
    ...process.env,
    NODE_TEST_CONTEXT: undefined, // or what is run would report to this test
    ...(COMMAND && { CAR_RPC_COMMAND: COMMAND }),
    CAR_HOME: join(folder, 'home'),
    TMPDIR: folder,
    ALL_PROXY: nowhere,
    HTTP_PROXY: nowhere,
    HTTPS_PROXY: nowhere,
  };
  const args = ['--test', '--test-reporter=tap', join(REPOSITORY, 'examples', 'node-cassette')];
  const app = spawn(process.execPath, args, { env });
  t.after(() => app.kill('SIGKILL'));
  let output = '';
  app.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  const [exitCode] = await once(app, 'close');
  assert.equal(exitCode, 0, output);
  assert.match(output, /^# pass 4$/m);
  assert.deepEqual(readdirSync(folder), []);
});

test('the demo leaves no process behind when its app is killed', bounded, async () => {
  const env = { ...process.env, ...(COMMAND && { CAR_RPC_COMMAND: COMMAND }) };
  const demo = spawn(process.execPath, [join(REPOSITORY, 'examples', 'node-demo', 'main.js')], {
    env,
  });
  let output = '';
  demo.stdout.setEncoding('utf8').on('data', (text) => (output += text));
  demo.stderr.pipe(process.stderr);
  const [exitCode] = await once(demo, 'close');
  assert.equal(exitCode, 0, output);
  assert.match(output, /all [2-9] processes of car-rpc were gone \d+ ms later\n$/);
});

const posix = { ...bounded, skip: process.platform === 'win32' && 'signals of POSIX' };

for (const signal of /** @type {const} */ (['SIGINT', 'SIGTERM'])) {
  test(`node-local goes in order after ${signal}`, posix, async (t) => {
    const { app, folder, printed } = start(t, 'node-local');
    while (!printed.text.includes('The whole answer: Once')) await once(app.stdout, 'printed');
    const core = Number(/process (\d+)/.exec(printed.text)?.[1]);
    app.kill(signal);
    const [exitCode] = await once(app, 'close');
    assert.equal(exitCode, 130);
    assert.match(printed.text, /closed, exit code 0\n$/);
    await untilGone(core);
    assert.deepEqual(readdirSync(folder), []);
  });
}
