"""The chat template (Qwen3's conventions) and the engine prompts that the model must know."""

from __future__ import annotations

import json
from typing import Any

import jinja2
from jinja2.sandbox import ImmutableSandboxedEnvironment

#: ChatML with <think>, <tool_call> and <tool_response>; an undefined enable_thinking means on.
#: mlx-lm picks its tool parser by the literals "<tool_call>" and "tool_call.name".
CHAT_TEMPLATE = r"""{%- if tools %}
{{- '<|im_start|>system\n' }}
{%- if messages[0].role == 'system' %}{{- messages[0].content + '\n\n' }}{%- endif %}
{{- "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n" }}
{{- "You are provided with function signatures within <tools></tools> XML tags:\n<tools>" }}
{%- for tool in tools %}{{- '\n' }}{{- tool | tojson }}{%- endfor %}
{{- "\n</tools>\n\nFor each function call, return a json object with function name and " }}
{{- "arguments within <tool_call></tool_call> XML tags:\n<tool_call>\n{\"name\": " }}
{{- "<function-name>, \"arguments\": <args-json-object>}\n</tool_call><|im_end|>\n" }}
{%- elif messages[0].role == 'system' %}
{{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(searching=true, last_query=messages|length - 1) %}
{%- for message in messages[::-1] %}
{%- set index = messages|length - 1 - loop.index0 %}
{%- if ns.searching and message.role == 'user' and message.content is string
 and not (message.content.startswith('<tool_response>')
 and message.content.endswith('</tool_response>')) %}
{%- set ns.searching = false %}{%- set ns.last_query = index %}
{%- endif %}
{%- endfor %}
{%- for message in messages %}
{%- set content = message.content if message.content is string else '' %}
{%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
{{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>\n' }}
{%- elif message.role == 'assistant' %}
{%- set reasoning = '' %}
{%- if message.reasoning_content is string %}
{%- set reasoning = message.reasoning_content %}
{%- elif '</think>' in content %}
{%- set reasoning = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
{%- set content = content.split('</think>')[-1].lstrip('\n') %}
{%- endif %}
{{- '<|im_start|>assistant\n' }}
{%- if loop.index0 > ns.last_query and (loop.last or reasoning) %}
{{- '<think>\n' + reasoning.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
{%- else %}
{{- content }}
{%- endif %}
{%- if message.tool_calls %}
{%- for call in message.tool_calls %}
{%- if (loop.first and content) or not loop.first %}{{- '\n' }}{%- endif %}
{%- set tool_call = call.function if call.function else call %}
{{- '<tool_call>\n{"name": "' + tool_call.name + '", "arguments": ' }}
{%- if tool_call.arguments is string %}{{- tool_call.arguments }}
{%- else %}{{- tool_call.arguments | tojson }}
{%- endif %}
{{- '}\n</tool_call>' }}
{%- endfor %}
{%- endif %}
{{- '<|im_end|>\n' }}
{%- elif message.role == 'tool' %}
{%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
{{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
{%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\n' }}{%- endif %}
{%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\n' }}
{%- if enable_thinking is defined and enable_thinking is false %}
{{- '<think>\n\n</think>\n\n' }}
{%- endif %}
{%- endif %}"""

RERANK_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"
RERANK_PROMPT = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    'the Instruct provided. Note that the answer can only be "yes" or "no".<|im_end|>\n'
    "<|im_start|>user\n<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {document}"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
)
RERANK_SYSTEM = RERANK_PROMPT.split("system\n")[1].split("<|im_end|>", maxsplit=1)[0]
DONE_NOTE = (
    "{context}\n\nIMPORTANT: When calling the `done` tool, the `result` field MUST contain a "
    "DETAILED summary of everything you found and did. This is the ONLY output the user sees. "
    "Do NOT just say 'completed' \N{EM DASH} include specific findings, data, and conclusions."
)


def classify_prompt(text: str, labels: list[str]) -> str:
    """The engine's own prompt for ``classify``."""
    lines = "\n".join(f"{i}. {label}" for i, label in enumerate(labels, 1))
    return (
        "Classify the following text into one of these categories:\n"
        f"{lines}\n\nText: {text}\n\nRespond with ONLY the category name, nothing else."
    )


def _tojson(value: Any, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _environment() -> jinja2.Environment:
    # trim_blocks and lstrip_blocks as every engine sets them; tojson without HTML escapes.
    env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    env.filters["tojson"] = _tojson
    return env


_TEMPLATE = _environment().from_string(CHAT_TEMPLATE)


def render(
    messages: list[dict[str, Any]],
    tools: list[dict[str, Any]] | None = None,
    thinking: bool = True,
    generate: bool = True,
) -> str:
    """Render a conversation as the engines do."""
    return _TEMPLATE.render(
        messages=messages, tools=tools, add_generation_prompt=generate, enable_thinking=thinking
    )


def completion(think: str, answer: str, thinking: bool) -> str:
    """What the model writes after the generation prompt, without the closing <|im_end|>."""
    return f"<think>\n{think}\n</think>\n\n{answer}" if thinking else answer
