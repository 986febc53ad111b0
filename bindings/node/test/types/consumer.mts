// What an app in TypeScript sees. Compiled against the built declarations, never run.

import { Car, CarError, CarProcessError, RunnerError } from 'car-rpc';
import type { EventStream, LogEntry, Runner, StartOptions } from 'car-rpc';
import type { GenerateRequest, InferenceResult, StreamEvent } from 'car-rpc/wire';

const runner: Runner = async (run, { emit, signal }) => {
  const prompt: string | undefined = run.request.prompt;
  if (signal.aborted) throw new RunnerError('cancelled', 'too late', { retryAfterMs: 5 });
  const { closed }: { closed: boolean } = await emit({ type: 'text_delta', text: prompt ?? '' });
  // @ts-expect-error: a type of event that no runner sends
  await emit({ type: 'no_such_event' });
  // @ts-expect-error: a text delta has a text
  emit.nowait({ type: 'text_delta' });
  return closed ? undefined : { stop_reason: 'end_turn' };
};

const options: StartOptions = {
  command: ['car-rpc', 'serve'],
  onLog: (entry: LogEntry) => console.error(entry.message),
  runner,
};

export async function main(): Promise<void> {
  await using car = await Car.start(options);
  const request: GenerateRequest = { prompt: 'Hello', params: { temperature: 0 } };
  const stream: EventStream<StreamEvent, InferenceResult> = car.generate(request);
  for await (const event of stream) {
    if (event.type === 'text_delta') event.text.toUpperCase();
    // @ts-expect-error: not every event has a text
    event.text;
  }
  const result: InferenceResult = await stream.result;
  result.usage?.total_tokens?.toFixed();
  const { models } = await car.models.list({ capability: 'generate' });
  models[0]?.id.toUpperCase();
  const { tokens } = await car.request('tokenize', { model: 'm', text: 'x' });
  tokens.map((token: number) => token + 1);
  const anything: unknown = await car.request('not.in.this.version', { x: 1 });
  // @ts-expect-error: a known method has known parameters
  await car.request('tokenize', { model: 7 });
  // @ts-expect-error: a request needs an object
  car.generate('Hello');
  try {
    await car.embed({ texts: ['x'] }, { signal: AbortSignal.timeout(5) });
  } catch (error) {
    if (error instanceof CarProcessError) error.stderr.trim();
    else if (error instanceof CarError) error.kind.trim();
  }
  void anything;
}
