/** However an app ends, no process of car-rpc is left. */

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, readdirSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { test } from 'node:test';
import { fileURLToPath } from 'node:url';

import { COMMAND, isAlive, temporaryFolder, until, untilGone } from './support/helpers.js';

const APP = fileURLToPath(new URL('support/app.js', import.meta.url));
const options = { timeout: 30_000, skip: process.platform === 'win32' && 'signals of POSIX' };

/**
 * @param {import('node:test').TestContext} t
 * @param {string} how
 */
async function startApp(t, how) {
  const env = COMMAND ? { ...process.env, CAR_TEST_COMMAND: COMMAND } : process.env;
  const app = spawn(process.execPath, [APP, how, temporaryFolder(t)], {
    env,
    stdio: ['ignore', 'pipe', 'ignore'],
  });
  t.after(() => app.kill('SIGKILL'));
  const [line] = await once(createInterface({ input: app.stdout }), 'line');
  return { app, core: Number(line) };
}

/**
 * Processes below another one.
 *
 * @param {number} pid
 * @returns {number[]}
 */
function descendants(pid) {
  if (process.platform !== 'linux') return [];
  const children = readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name))
    .filter((name) => parentOf(name) === pid)
    .map(Number);
  return children.flatMap((child) => [child, ...descendants(child)]);
}

/** @param {string} pid */
function parentOf(pid) {
  try {
    return Number(readFileSync(`/proc/${pid}/stat`, 'latin1').split(') ').at(-1)?.split(' ')[1]);
  } catch {
    return undefined;
  }
}

for (const how of ['exit', 'throw', 'reject']) {
  test(`after ${how} nothing is left`, options, async (t) => {
    const { app, core } = await startApp(t, how);
    if (app.exitCode === null) await once(app, 'exit');
    await untilGone(core);
  });
}

for (const signal of /** @type {const} */ (['SIGKILL', 'SIGTERM', 'SIGINT', 'SIGHUP'])) {
  test(`after ${signal} nothing is left, workers included`, options, async (t) => {
    const { app, core } = await startApp(t, 'wait');
    assert.ok(isAlive(core));
    if (process.platform === 'linux') {
      await until(() => descendants(core).length > 0, 'a worker runs');
    }
    const workers = descendants(core);
    app.kill(signal);
    await once(app, 'exit');
    for (const pid of [core, ...workers]) await untilGone(pid);
  });
}
