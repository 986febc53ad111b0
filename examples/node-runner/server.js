/**
 * A stand-in for a provider, so that the example needs no key and no network: it speaks the wire of
 * OpenAI's chat completions. The name of the model says what it does.
 */

import { once } from 'node:events';
import { createServer } from 'node:http';
import { setTimeout as pause } from 'node:timers/promises';

export const API_KEY = 'a-key-that-only-this-example-knows';

/** Between two chunks, in milliseconds. */
const PAUSE_MS = 20;

/** @param {string} text */
const words = (text) => text.split(/(?<= )/).map((word) => ({ content: word }));

/** What the models say: the deltas, and how it ends. */
const STORY = 'Once upon a time, a bird carried a letter over seven hills and never dropped it. ';

const MODELS = /** @type {Record<string, { deltas: object[], finish: string }>} */ ({
  storyteller: { deltas: words('Once upon a time, a model ran far away. '), finish: 'stop' },
  'weather-caller': {
    deltas: [
      { tool_calls: [toolCall({ id: 'call_1', name: 'get_weather', arguments: '' })] },
      { tool_calls: [toolCall({ arguments: '{"city":' })] },
      { tool_calls: [toolCall({ arguments: ' "Paris"}' })] },
    ],
    finish: 'tool_calls',
  },
  endless: { deltas: Array(10_000).fill({ content: 'on and ' }), finish: 'stop' },
});

/** @param {{ id?: string, name?: string, arguments: string }} part */
function toolCall({ id, name, arguments: text }) {
  const called = { ...(name && { name }), arguments: text };
  return { index: 0, ...(id && { id, type: 'function' }), function: called };
}

/** Starts it on a free port of this machine. */
export async function startServer() {
  /** @type {() => void} */
  let tellClientLeft = () => {};
  /** Resolves when a client has hung up in the middle of an answer. */
  const clientLeft = new Promise((resolve) => {
    tellClientLeft = () => resolve(undefined);
  });
  const server = createServer((request, response) => {
    response.on('close', () => {
      if (!response.writableEnded) tellClientLeft();
    });
    answer(request, response).catch((error) => response.destroy(error));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  const { port } = /** @type {import('node:net').AddressInfo} */ (server.address());
  return {
    url: `http://127.0.0.1:${port}`,
    clientLeft,
    close() {
      server.close();
      server.closeAllConnections();
      return once(server, 'close');
    },
  };
}

/**
 * @param {import('node:http').IncomingMessage} request
 * @param {import('node:http').ServerResponse} response
 */
async function answer(request, response) {
  let text = '';
  for await (const chunk of request.setEncoding('utf8')) text += chunk;
  if (request.headers.authorization !== `Bearer ${API_KEY}`) {
    refuse(response, 401, 'the key is not valid');
    return;
  }
  const { model, messages } = JSON.parse(text);
  const spoken = MODELS[model];
  if (model === 'busy') {
    response.setHeader('retry-after', '2');
    refuse(response, 429, 'too many requests');
  } else if (model === 'flaky') {
    await breakOff(response, messages);
  } else if (spoken) {
    await stream(response, spoken);
  } else {
    refuse(response, 500, 'something went wrong');
  }
}

/**
 * @param {import('node:http').ServerResponse} response
 * @param {number} status
 * @param {string} message
 */
function refuse(response, status, message) {
  response.writeHead(status, { 'content-type': 'application/json' });
  response.end(JSON.stringify({ error: { message } }));
}

/**
 * Breaks off in the middle; asked to continue, it first repeats some of what it had said.
 *
 * @param {import('node:http').ServerResponse} response
 * @param {{ role: string, content: string }[]} messages
 */
async function breakOff(response, messages) {
  const said = messages.find(({ role }) => role === 'assistant')?.content;
  if (said) {
    await stream(response, { deltas: words(STORY.slice(said.length - 30)), finish: 'stop' });
    return;
  }
  await stream(response, { deltas: words(STORY).slice(0, 9), finish: '' });
}

/**
 * @param {import('node:http').ServerResponse} response
 * @param {{ deltas: object[], finish: string }} answer
 */
async function stream(response, { deltas, finish }) {
  const send = (/** @type {object} */ event) =>
    response.write(`data: ${JSON.stringify(event)}\n\n`);
  response.writeHead(200, { 'content-type': 'text/event-stream' });
  for (const delta of deltas) {
    if (response.destroyed) return;
    send({ choices: [{ index: 0, delta, finish_reason: null }] });
    await pause(PAUSE_MS);
  }
  if (!finish) {
    response.destroy();
    return;
  }
  send({ choices: [{ index: 0, delta: {}, finish_reason: finish }] });
  const completion_tokens = deltas.length;
  const usage = { prompt_tokens: 7, completion_tokens, total_tokens: 7 + completion_tokens };
  send({ choices: [], usage });
  response.end('data: [DONE]\n\n');
}
