// What an app in CommonJS sees. Compiled against the built declarations, never run.

import car = require('car-rpc');
import type { Car, LogEntry, Runner } from 'car-rpc';

export const runner: Runner = async (run) => run.request.prompt;
export const log = (entry: LogEntry): string => entry.message;
export const close = (running: Car): Promise<void> => running.close();

export async function main(): Promise<string> {
  const running = await car.Car.start({ stateDir: '/tmp' });
  const { text } = await running.generate({ prompt: 'Hello' }).result;
  const error = new car.RunnerError('unauthorized', 'no key');
  const { ended } = running;
  if ((await ended) instanceof car.CarProcessError) await running.close();
  return text + error.kind;
}
