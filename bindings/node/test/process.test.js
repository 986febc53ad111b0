import assert from 'node:assert/strict';
import { chmodSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

import { Car, CarError, CarProcessError } from '../index.js';
import {
  collect,
  programCommand,
  startProgram,
  temporaryFolder,
  until,
  untilGone,
} from './support/helpers.js';

const bounded = { timeout: 30_000 };

test('a program that is not there is an error that says what to do', bounded, async () => {
  await assert.rejects(Car.start({ command: 'no-such-program-of-car-rpc' }), (error) => {
    assert.ok(error instanceof CarProcessError);
    assert.equal(error.kind, 'start_failed');
    assert.match(error.message, /"no-such-program-of-car-rpc".*Install car-rpc.*CAR_RPC_COMMAND/);
    return true;
  });
});

test('a program that may not be run is an error, too', bounded, async (t) => {
  const file = join(temporaryFolder(t), 'car-rpc');
  writeFileSync(file, '');
  chmodSync(file, 0o600);
  await assert.rejects(Car.start({ command: file }), { kind: 'start_failed', message: /EACCES/ });
  await assert.rejects(Car.start({ command: 'a\0b' }), { kind: 'start_failed' });
});

test('a process that ends instead of answering leaves its last words', bounded, async () => {
  const program = `
    process.stderr.write('x'.repeat(100000));
    process.stderr.write('no module named car_rpc\\n', () => process.exit(7));
  `;
  await assert.rejects(Car.start({ command: programCommand(program) }), (error) => {
    assert.ok(error instanceof CarProcessError);
    assert.equal(error.kind, 'process_ended');
    assert.equal(error.exitCode, 7);
    assert.match(error.message, /no module named car_rpc/);
    assert.equal(error.stderr.length, 64 * 1024);
    assert.ok(error.stderr.endsWith('no module named car_rpc\n'));
    return true;
  });
});

test('a process that never answers is given up, and gone', bounded, async (t) => {
  const pidFile = join(temporaryFolder(t), 'pid');
  const program = `
    begin = () => {
      process.stderr.write('still thinking\\n');
      require('node:fs').writeFileSync(${JSON.stringify(pidFile)}, String(process.pid));
    };
    process.on('SIGTERM', () => {});
  `;
  const options = { command: programCommand(program), timeoutMs: 1500 };
  await assert.rejects(Car.start(options), (error) => {
    assert.ok(error instanceof CarProcessError);
    assert.equal(error.kind, 'start_timeout');
    assert.match(error.stderr, /still thinking/);
    return true;
  });
  await untilGone(Number(readFileSync(pidFile, 'utf8')));
});

test('the time to start covers the registration of a runner', bounded, async (t) => {
  const pidFile = join(temporaryFolder(t), 'pid');
  const program = `
    require('node:fs').writeFileSync(${JSON.stringify(pidFile)}, String(process.pid));
    handle = () => {};
  `;
  const options = { command: programCommand(program), timeoutMs: 1500, runner: () => 'Hello' };
  await assert.rejects(Car.start(options), { kind: 'start_timeout' });
  await untilGone(Number(readFileSync(pidFile, 'utf8')));
});

test('starting can be aborted, before and while it happens', bounded, async () => {
  const aborted = AbortSignal.abort('before');
  await assert.rejects(Car.start({ command: 'not even looked for', signal: aborted }), {
    kind: 'cancelled',
    cause: 'before',
  });
  const controller = new AbortController();
  const starting = Car.start({
    command: programCommand('begin = () => {};'),
    signal: controller.signal,
  });
  controller.abort('while');
  await assert.rejects(starting, { kind: 'cancelled', cause: 'while' });
});

test('a core that refuses the connection is an error of the core', bounded, async () => {
  const program = `
    const data = { kind: 'protocol_version_unsupported', supported: [2] };
    begin = (id) => send({ id, error: { code: 1024, message: 'version', data } });
  `;
  await assert.rejects(Car.start({ command: programCommand(program) }), (error) => {
    assert.ok(error instanceof CarError && !error.local);
    assert.equal(error.kind, 'protocol_version_unsupported');
    assert.deepEqual(error.data.supported, [2]);
    return true;
  });
});

test('the core is told who starts it and what is wanted', bounded, async (t) => {
  const car = await startProgram(t, 'begin = (id, params) => answer(id, params);', {
    allowedPaths: ['/data'],
    clientInfo: { name: 'my app', version: '2' },
    onLog: () => {},
    logLevel: 'warning',
  });
  assert.deepEqual(car.server, {
    protocol_version: 1,
    client_info: { name: 'my app', version: '2' },
    process_id: process.pid,
    allowed_paths: ['/data'],
    capabilities: { log: { level: 'warning' } },
  });
});

test('the environment is extended, and a variable can be taken out', bounded, async (t) => {
  process.env.CAR_TEST_REMOVED = 'x';
  t.after(() => delete process.env.CAR_TEST_REMOVED);
  const program = `
    const { CAR_TEST_ADDED, CAR_TEST_REMOVED, PATH } = process.env;
    begin = (id) => answer(id, [CAR_TEST_ADDED, CAR_TEST_REMOVED, PATH]);
  `;
  const env = { CAR_TEST_ADDED: 'y', CAR_TEST_REMOVED: undefined };
  const car = await startProgram(t, program, { env });
  assert.deepEqual(car.server, ['y', null, process.env.PATH]);
});

test('what else is printed on standard output goes to the log', bounded, async (t) => {
  /** @type {import('../index.js').LogEntry[]} */
  const log = [];
  const program = `
    begin = (id) => {
      write('Loading... 50%\\n');
      send({ method: 'log', params: { level: 'info', message: 'ready', source: 'core' } });
      answer(id, {});
    };
  `;
  await startProgram(t, program, { onLog: (entry) => log.push(entry) });
  assert.deepEqual(log, [
    { level: 'warning', message: 'Loading... 50%', source: 'stdout' },
    { level: 'info', message: 'ready', source: 'core' },
  ]);
});

test('a log listener that throws breaks nothing', bounded, async (t) => {
  /** @type {Error[]} */
  const warnings = [];
  const listener = (/** @type {Error} */ warning) => warnings.push(warning);
  process.on('warning', listener);
  t.after(() => process.off('warning', listener));
  const onLog = () => {
    throw new Error('from the listener');
  };
  await startProgram(t, `begin = (id) => { write('noise\\n'); answer(id, {}); };`, { onLog });
  await until(() => warnings.some(({ message }) => message === 'from the listener'), 'a warning');
});

test('pings of the core are answered, and what it may not ask is refused', bounded, async (t) => {
  const program = `
    const answers = [];
    let asked;
    handle = ({ id, method, result, error }) => {
      if (method === 'test') {
        asked = id;
        send({ id: 0, method: 'ping', params: {} });
        send({ id: '', method: 'policy.approve', params: {} });
      } else if (method === undefined) {
        answers.push([id, result ?? error.code]);
        if (answers.length === 2) answer(asked, answers);
      } else if (method === 'exit') process.exit(0);
      else answer(id, null);
    };
  `;
  const car = await startProgram(t, program);
  assert.deepEqual(await car.request('test'), [
    [0, {}],
    ['', -32601],
  ]);
});

test('messages of the core that are not as they should be are survived', bounded, async (t) => {
  const program = `
    handle = ({ id, method }) => {
      if (method === 'exit') process.exit(0);
      for (const params of [null, undefined, 7, 'x', [], {}, { id: {} }, { request_id: id }]) {
        for (const name of ['generate.event', '$/cancelRequest', 'log', '$/progress', '']) {
          send({ method: name, params });
        }
        send({ id: 1, method: 'runner.run', params });
      }
      send({ id, method: 5, result: 'still here' });
    };
  `;
  const car = await startProgram(t, program, {
    onLog: () => {},
    timeoutMs: Infinity,
    runner: async (run) => String(run.call_id),
  });
  assert.equal(await car.request('test'), 'still here');
});

test('characters that are cut between two writes arrive whole', bounded, async (t) => {
  const program = `
    handle = ({ id, method }) => {
      if (method === 'exit') process.exit(0);
      const bytes = Buffer.from(JSON.stringify({ jsonrpc: '2.0', id, result: 'ü👋\\u2028' }) + '\\n');
      let at = 0;
      const next = () => at < bytes.length
        && process.stdout.write(bytes.subarray(at, ++at), () => setImmediate(next));
      next();
    };
  `;
  const car = await startProgram(t, program);
  assert.equal(await car.request('test'), 'ü👋\u2028');
});

test('when the process dies, everything pending rejects with how and why', bounded, async (t) => {
  const program = `
    handle = ({ id, method }) => {
      if (method === 'die') process.stderr.write('out of memory\\n', () => process.exit(9));
    };
  `;
  const car = await startProgram(t, program);
  const stream = car.generate({ prompt: 'x' });
  const pending = [car.request('wait'), stream.result, collect(stream), car.request('die')];
  for (const each of await Promise.allSettled(pending)) {
    assert.equal(each.status, 'rejected');
    assert.ok(each.reason instanceof CarProcessError);
    assert.equal(each.reason.exitCode, 9);
    assert.equal(each.reason.stderr, 'out of memory\n');
  }
  await assert.rejects(car.request('more'), { kind: 'process_ended', exitCode: 9 });
  assert.equal((await car.ended).exitCode, 9);
});

test('an answer that was written before the end still counts', bounded, async (t) => {
  const program = `handle = ({ id }) => { answer(id, 'last'); process.exit(0); };`;
  const car = await startProgram(t, program);
  assert.equal(await car.request('test'), 'last');
});

test('what a dead core leaves behind is ended, though it holds the pipes', bounded, async (t) => {
  const program = `
    const child = require('node:child_process').spawn(
      process.execPath, ['-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)'],
      { stdio: 'inherit' });
    begin = (id) => answer(id, { child: child.pid });
    handle = () => process.exit(6);
  `;
  const car = await startProgram(t, program);
  await assert.rejects(car.request('test'), { kind: 'process_ended', exitCode: 6 });
  await untilGone(/** @type {any} */ (car.server).child);
});

test('a core that closes its output is of no use, and ended', bounded, async (t) => {
  const program = `
    handle = () => require('node:fs').closeSync(1);
    process.removeAllListeners('SIGTERM');
    setInterval(() => {}, 1000);
  `;
  const car = await startProgram(t, program);
  await assert.rejects(car.request('test'), { kind: 'process_ended' });
  await untilGone(car.pid);
});

test('a core that reads nothing more leaves no unhandled error behind', bounded, async (t) => {
  const program = `
    handle = () => { require('node:fs').closeSync(0); setTimeout(() => process.exit(5), 100); };
  `;
  const car = await startProgram(t, program);
  const requests = Array.from({ length: 50 }, () =>
    car.request('x', { text: 'x'.repeat(100_000) }),
  );
  for (const each of await Promise.allSettled(requests)) {
    assert.equal(each.status, 'rejected');
    assert.equal(each.reason.kind, 'process_ended');
  }
});

test('what a core does not read is bounded', bounded, async (t) => {
  const car = await startProgram(t, `handle = () => { for (;;); };`);
  const text = 'x'.repeat(10 * 1024 * 1024);
  const requests = Array.from({ length: 9 }, () => car.request('x', { text }));
  await assert.rejects(/** @type {any} */ (requests.at(-1)), { kind: 'overloaded', local: true });
  await Promise.all([car.close(), Promise.allSettled(requests)]);
});

test('closing says shutdown and exit, and may be repeated', bounded, async (t) => {
  const program = `
    const said = [];
    handle = ({ id, method }) => {
      said.push(method);
      if (id !== undefined) answer(id, null);
      if (method === 'exit') process.stderr.write(said.join(' '), () => process.exit(0));
    };
  `;
  const car = await startProgram(t, program);
  const closing = car.close();
  assert.equal(car.close(), closing);
  await closing;
  await car[Symbol.asyncDispose]();
  const { exitCode, stderr } = await car.ended;
  assert.deepEqual([exitCode, stderr], [0, 'shutdown exit']);
  await assert.rejects(car.request('late'), { kind: 'closed', local: true });
});

test('closing ends a core that hears nothing, and what it started', bounded, async (t) => {
  const program = `
    process.on('SIGTERM', () => {});
    const child = require('node:child_process').spawn(
      process.execPath, ['-e', 'process.on("SIGTERM", () => {}); setInterval(() => {}, 1000)'],
      { stdio: 'ignore' });
    begin = (id) => answer(id, { child: child.pid });
    handle = ({ method }) => { if (method === 'shutdown') for (;;); };
  `;
  const car = await startProgram(t, program);
  await car.close();
  await untilGone(car.pid);
  await untilGone(/** @type {any} */ (car.server).child);
  assert.equal((await car.ended).signal, 'SIGKILL');
});

test('closing while the core has died is quiet', bounded, async (t) => {
  const car = await startProgram(t, '');
  process.kill(car.pid, 'SIGKILL');
  await car.close();
  assert.equal((await car.ended).signal, 'SIGKILL');
});
