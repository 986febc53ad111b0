import assert from 'node:assert/strict';
import { test } from 'node:test';

import { resolveCommand } from '../src/command.js';

test('without a command it is car-rpc on the PATH', () => {
  assert.deepEqual(resolveCommand(undefined, [], {}), { file: 'car-rpc', args: ['serve'] });
});

test('a string is a program, which gets the command serve', () => {
  const command = resolveCommand('/opt/my apps/car-rpc', ['--state-dir', '/tmp/x'], {});
  assert.deepEqual(command, {
    file: '/opt/my apps/car-rpc',
    args: ['serve', '--state-dir', '/tmp/x'],
  });
});

test('a list is a whole command line', () => {
  const command = resolveCommand(['python3', '-m', 'car_rpc', 'serve'], ['--drain-ms', '0'], {});
  assert.deepEqual(command, {
    file: 'python3',
    args: ['-m', 'car_rpc', 'serve', '--drain-ms', '0'],
  });
});

test('the environment names a program or a command line, and an option comes before it', () => {
  const program = { CAR_RPC_COMMAND: '/opt/car-rpc' };
  assert.deepEqual(resolveCommand(undefined, [], program), {
    file: '/opt/car-rpc',
    args: ['serve'],
  });
  const line = { CAR_RPC_COMMAND: '["uv", "run", "car-rpc"]' };
  assert.deepEqual(resolveCommand(undefined, [], line), { file: 'uv', args: ['run', 'car-rpc'] });
  assert.equal(resolveCommand('mine', [], program).file, 'mine');
  assert.equal(resolveCommand(undefined, [], { CAR_RPC_COMMAND: '' }).file, 'car-rpc');
});

test('what is no command is refused by name', () => {
  for (const wrong of [[], [''], '', [1], {}]) {
    assert.throws(() => resolveCommand(/** @type {any} */ (wrong), [], {}), /command must be/);
  }
  const env = { CAR_RPC_COMMAND: '["unfinished"' };
  assert.throws(() => resolveCommand(undefined, [], env), /CAR_RPC_COMMAND must be/);
});
