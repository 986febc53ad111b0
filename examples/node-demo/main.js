/**
 * Runs the app in `../node-runner`, then runs it again, kills it in the middle of an answer, and looks
 * whether anything is left. `make demo` calls it.
 */

import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { setTimeout as pause } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';

const APP = fileURLToPath(new URL('../node-runner/main.js', import.meta.url));

/** How long the processes of an app that died may take to go, in milliseconds. */
const GONE_MS = 2000;

// An app that is killed cannot tidy up its own files.
const folder = await mkdtemp(join(tmpdir(), 'car-rpc-demo-'));
const env = { ...process.env, TMPDIR: folder };

/** The processes of this machine that have not ended: each one's parent, by its id. */
function parents() {
  const table = execFileSync('ps', ['-A', '-o', 'pid=,ppid=,stat='], { encoding: 'utf8' });
  const rows = table
    .trim()
    .split('\n')
    .map((row) => row.trim().split(/\s+/));
  // One that ended stays in the table, as a zombie, until it is asked how it ended.
  const alive = rows.filter(([, , state]) => !state?.startsWith('Z'));
  return new Map(alive.map(([pid, parent]) => [Number(pid), Number(parent)]));
}

/** @param {number} pid Of a process; the result has those of all that it started, too. */
function withDescendants(pid) {
  const table = parents();
  const found = [pid];
  for (const parent of found) {
    for (const [child, itsParent] of table) if (itsParent === parent) found.push(child);
  }
  return found;
}

/** @param {number[]} pids */
function living(pids) {
  const table = parents();
  return pids.filter((pid) => table.has(pid));
}

async function runToTheEnd() {
  const app = spawn(process.execPath, [APP], { stdio: 'inherit', env });
  const [exitCode] = await once(app, 'close');
  if (exitCode !== 0) throw new Error(`the app ended with exit code ${exitCode}`);
}

async function killInTheMiddle() {
  console.log('\nThe same app again, killed in the middle of an answer:');
  const app = spawn(process.execPath, [APP], { stdio: ['ignore', 'pipe', 'inherit'], env });
  let core = 0;
  for await (const line of createInterface({ input: app.stdout })) {
    core ||= Number(/as process (\d+)/.exec(line)?.[1] ?? 0);
    if (line.startsWith('An answer without end')) break;
  }
  const processes = withDescendants(core);
  app.kill('SIGKILL');
  await once(app, 'close');
  const killedAt = performance.now();
  let left = processes;
  while (left.length > 0 && performance.now() - killedAt < GONE_MS) {
    await pause(10);
    left = living(processes);
  }
  if (left.length > 0) throw new Error(`still there: ${left.join(', ')}`);
  const after = (performance.now() - killedAt).toFixed();
  console.log(`  all ${processes.length} processes of car-rpc were gone ${after} ms later`);
}

try {
  await runToTheEnd();
  await killInTheMiddle();
} finally {
  await rm(folder, { recursive: true, force: true });
}
