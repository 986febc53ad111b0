// What an app in CommonJS sees. Compiled against the built declarations, never run.

import car = require('car-rpc');
import type { CallOptions, Car, EventStream, LogEntry, Runner, RunnerRun } from 'car-rpc';
import type { GenerateRequest, InferenceResult, StreamEvent } from 'car-rpc/wire';

export const runner: Runner = async (run) => run.request.prompt;
export const log = (entry: LogEntry): string => entry.message;
export const close = (running: Car): Promise<void> => running.close();

export const hintOf = (run: RunnerRun): string | null | undefined => run.hint;
export const start = (
  running: Car,
  request: GenerateRequest,
  options: CallOptions,
): EventStream<StreamEvent, InferenceResult> => running.generate(request, options);

// @ts-expect-error: a request of the wire is an object
export const noRequest: GenerateRequest = 'Hello';

export async function main(): Promise<string> {
  const running = await car.Car.start({ stateDir: '/tmp' });
  const { text } = await running.generate({ prompt: 'Hello' }).result;
  const error = new car.RunnerError('unauthorized', 'no key');
  const { ended } = running;
  if ((await ended) instanceof car.CarProcessError) await running.close();
  return text + error.kind;
}
