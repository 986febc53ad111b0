/** Ends a process and what it started, also when this program ends first. */

import { spawn } from 'node:child_process';

/** @type {Set<import('node:child_process').ChildProcess>} */
const running = new Set();

/**
 * How to spawn a process so that `killTree` reaches all of it: on POSIX in a group of its own.
 * This also keeps a Ctrl-C in the terminal to the app, which decides what becomes of the core.
 */
export const spawnOptions = { detached: process.platform !== 'win32', windowsHide: true };

/**
 * Sends a signal to a process and what it started. On Windows everything is ended at once,
 * whatever the signal.
 *
 * @param {import('node:child_process').ChildProcess} child
 * @param {NodeJS.Signals} signal
 */
export function killTree(child, signal) {
  if (child.pid === undefined) return;
  if (process.platform === 'win32') {
    const args = ['/pid', String(child.pid), '/T', '/F'];
    spawn('taskkill', args, { windowsHide: true, stdio: 'ignore' }).on('error', () => child.kill());
    return;
  }
  try {
    process.kill(-child.pid, signal);
  } catch {
    // It is gone.
  }
}

/**
 * Ends a process when this program exits by itself. When it is killed, the core notices: its input
 * ends, and it watches this process.
 *
 * @param {import('node:child_process').ChildProcess} child
 */
export function killAtExit(child) {
  if (child.pid === undefined) return;
  if (running.size === 0) process.on('exit', killRunning);
  running.add(child);
  child.once('exit', () => {
    running.delete(child);
    if (running.size === 0) process.off('exit', killRunning);
  });
}

function killRunning() {
  for (const child of running) {
    if (process.platform === 'win32') child.kill();
    else killTree(child, 'SIGTERM');
  }
}
