/** An app that starts a core, and then ends in the way that its argument names. */

import { writeSync } from 'node:fs';

import { Car } from '../../index.js';

const [how, stateDir] = process.argv.slice(2);
const { CAR_TEST_COMMAND } = process.env;
const car = await Car.start({ command: CAR_TEST_COMMAND, stateDir });
await car.models.register({
  model: {
    id: 'test/worker:1',
    // What prints runs in a worker process, which must not be left behind either.
    source: { type: 'fake', script: [{ print: 'x' }, { stall: true }] },
    capabilities: ['generate'],
  },
});
const stream = car.generate({ model: 'test/worker:1', prompt: 'x' });
await stream.next();
writeSync(1, `${car.pid}\n`);

if (how === 'exit') process.exit(0);
if (how === 'throw') throw new Error('nobody catches this');
if (how === 'reject') Promise.reject(new Error('nobody handles this'));
// Otherwise it waits to be killed.
