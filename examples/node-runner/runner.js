/** Runs models behind an HTTP API that speaks OpenAI's chat completions. */

import { RunnerError } from '../../bindings/node/index.js';
import { bodyOf, stopReasonOf } from './chat.js';
import { dataOf } from './sse.js';

/**
 * @param {object} provider
 * @param {string} provider.baseUrl Without `/v1`.
 * @param {string} provider.apiKey Stays in this program.
 * @returns {import('../../bindings/node/index.js').Runner}
 */
export function chatRunner({ baseUrl, apiKey }) {
  return async ({ hint, model, request }, { emit, signal }) => {
    // A model is registered with the provider's own name for it as its hint.
    const response = await fetch(`${baseUrl}/v1/chat/completions`, {
      method: 'POST',
      headers: { 'content-type': 'application/json', authorization: `Bearer ${apiKey}` },
      body: JSON.stringify(bodyOf(request, hint ?? model)),
      // Aborted when the client cancels, or is gone: then the provider stops, too.
      signal,
    }).catch((error) => {
      if (signal.aborted) throw error;
      throw new RunnerError('provider_error', 'the provider cannot be reached', { cause: error });
    });
    if (!response.ok || !response.body) throw await failureOf(response);
    return relay(response.body, emit, signal);
  };
}

/**
 * Passes on what the provider streams.
 *
 * @param {ReadableStream<Uint8Array>} body
 * @param {import('../../bindings/node/index.js').Emit} emit
 * @param {AbortSignal} signal
 */
async function relay(body, emit, signal) {
  /** @type {string | undefined} */
  let finished;
  /** @type {Map<number, string>} Ids of tool calls by their index. */
  const toolCalls = new Map();
  try {
    for await (const data of dataOf(body)) {
      if (data === '[DONE]') break;
      const { choices = [], usage } = JSON.parse(data);
      const { delta = {}, finish_reason } = choices[0] ?? {};
      finished = finish_reason ?? finished;
      if (delta.content) await emit({ type: 'text_delta', text: delta.content });
      for (const call of delta.tool_calls ?? []) await relayToolCall(call, toolCalls, emit);
      if (usage) {
        const { prompt_tokens, completion_tokens, total_tokens } = usage;
        await emit({ type: 'usage', prompt_tokens, completion_tokens, total_tokens });
      }
    }
  } catch (error) {
    if (signal.aborted) throw error;
    throw new RunnerError('stream_interrupted', 'the provider broke off', { cause: error });
  }
  if (!finished) throw new RunnerError('stream_interrupted', 'the provider ended too early');
  return { stop_reason: stopReasonOf(finished) };
}

/**
 * @param {any} call
 * @param {Map<number, string>} toolCalls
 * @param {import('../../bindings/node/index.js').Emit} emit
 */
async function relayToolCall({ index, id, function: called = {} }, toolCalls, emit) {
  if (!toolCalls.has(index)) {
    toolCalls.set(index, id);
    await emit({ type: 'tool_call_start', index, id, name: called.name });
  }
  if (called.arguments) {
    const known = toolCalls.get(index) ?? id;
    await emit({ type: 'tool_call_delta', index, id: known, arguments_delta: called.arguments });
  }
}

/**
 * What a refusal means, in the words of the protocol's error table.
 *
 * @param {Response} response
 */
async function failureOf(response) {
  const { status } = response;
  const message = await messageOf(response);
  if (status === 401 || status === 403) return new RunnerError('unauthorized', message, { status });
  if (status === 429) {
    const retryAfterMs = retryAfterOf(response);
    return new RunnerError('rate_limited', message, { status, retryAfterMs, retryable: true });
  }
  if (status === 503) return new RunnerError('overloaded', message, { status, retryable: true });
  const kind = status < 500 ? 'invalid_request' : 'provider_error';
  return new RunnerError(kind, message, { status, retryable: status >= 500 });
}

/** @param {Response} response */
async function messageOf(response) {
  const body = /** @type {any} */ (await response.json().catch(() => undefined));
  return body?.error?.message ?? `the provider answered ${response.status}`;
}

/**
 * The `Retry-After` header, which is in seconds or a date.
 *
 * @param {Response} response
 */
function retryAfterOf(response) {
  const value = response.headers.get('retry-after');
  if (value === null) return undefined;
  const wait = /^\d+$/.test(value) ? Number(value) * 1000 : Date.parse(value) - Date.now();
  return Number.isNaN(wait) ? undefined : Math.max(0, Math.round(wait));
}
