/** Between car-rpc's words and those of OpenAI's chat completions. */

import { RunnerError } from '../../bindings/node/index.js';

/** @typedef {import('../../bindings/node/src/wire/index.js').GenerateRequest} GenerateRequest */
/** @typedef {import('../../bindings/node/src/wire/index.js').Message} Message */
/** @typedef {import('../../bindings/node/src/wire/index.js').RunnerResult} RunnerResult */

/** Sampling parameters with the same name and meaning on both sides. */
const SAME_PARAMS = /** @type {const} */ ([
  'temperature',
  'top_p',
  'max_tokens',
  'stop',
  'presence_penalty',
  'frequency_penalty',
  'parallel_tool_calls',
  'logit_bias',
  'reasoning_effort',
]);

/** @type {Record<string, RunnerResult['stop_reason']>} */
const STOP_REASONS = {
  stop: 'end_turn',
  length: 'max_tokens',
  tool_calls: 'tool_use',
  content_filter: 'refusal',
};

/**
 * The body of a request. What the client did not set is left to the provider.
 *
 * @param {GenerateRequest} request
 * @param {string} model
 */
export function bodyOf(request, model) {
  const { prompt, messages = [], context, params = {}, tools } = request;
  const turns = [...messages.map(turnOf)];
  if (context !== undefined) turns.unshift({ role: 'system', content: context });
  if (prompt !== undefined) turns.push({ role: 'user', content: prompt });
  const same = SAME_PARAMS.filter((name) => params[name] !== undefined);
  return {
    model,
    messages: turns,
    ...Object.fromEntries(same.map((name) => [name, params[name]])),
    ...(params.seed !== undefined && { seed: Number(params.seed) }),
    ...(params.tool_choice !== undefined && { tool_choice: choiceOf(params.tool_choice) }),
    ...(tools && { tools }),
    stream: true,
    stream_options: { include_usage: true },
  };
}

/** @param {string | undefined} reason */
export function stopReasonOf(reason) {
  return STOP_REASONS[reason ?? ''] ?? 'end_turn';
}

/** @param {NonNullable<NonNullable<GenerateRequest['params']>['tool_choice']>} choice */
function choiceOf(choice) {
  const isName = typeof choice === 'string' && !['auto', 'none', 'required'].includes(choice);
  return isName ? { type: 'function', function: { name: choice } } : choice;
}

/**
 * @param {Message} message
 * @returns {Record<string, unknown>}
 */
function turnOf({ role, content = '', tool_calls, tool_call_id }) {
  return {
    role,
    content: textOf(content),
    ...(tool_call_id !== undefined && { tool_call_id }),
    ...(tool_calls && {
      tool_calls: tool_calls.map(({ id, name, arguments: values }) => ({
        id,
        type: 'function',
        function: { name, arguments: JSON.stringify(values) },
      })),
    }),
  };
}

/** @param {NonNullable<Message['content']>} content */
function textOf(content) {
  if (typeof content === 'string') return content;
  return content
    .map((block) => {
      if (block.type === 'text') return block.text;
      throw new RunnerError('unsupported_mode', `this example sends no ${block.type} blocks`);
    })
    .join('');
}
