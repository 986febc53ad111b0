"""Prompts for the README and the tests, with the exact greedy outputs of both GGUF files.

``margin`` is the smallest gap between the two largest logits on the way: an output with a wide one
does not change with the CPU's rounding. Writes ``golden.json`` and prints the outputs.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from derive import DEMO, QUANTIZED, SOURCE, derive
from engines import LlamaCpp
from template import RERANK_INSTRUCTION, RERANK_SYSTEM, classify_prompt, render

OUT = Path(__file__).parent / "golden.json"
LIMIT = 200  #: tokens
WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}
DONE = {
    "type": "function",
    "function": {
        "name": "done",
        "description": "Finish the task",
        "parameters": {
            "type": "object",
            "properties": {"result": {"type": "string"}},
            "required": ["result"],
        },
    },
}
NOTE = (
    "You are a helpful assistant.\n\nIMPORTANT: When calling the `done` tool, the `result` field "
    "MUST contain a DETAILED summary of everything you found and did. This is the ONLY output the "
    "user sees. Do NOT just say 'completed' \N{EM DASH} include specific findings, data, and "
    "conclusions."
)
CALLED = [
    {"role": "user", "content": "What is the weather in Paris?"},
    {
        "role": "assistant",
        "content": "",
        "tool_calls": [
            {
                "type": "function",
                "function": {"name": "get_weather", "arguments": {"city": "Paris"}},
            }
        ],
    },
    {"role": "tool", "content": '{"temperature": 18, "sky": "sunny"}'},
]
ADA = [
    {"role": "user", "content": "My name is Ada."},
    {"role": "assistant", "content": "Nice to meet you, Ada!"},
    {"role": "user", "content": "What is my name?"},
]


def _user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def _rerank(query: str, document: str) -> list[dict[str, Any]]:
    text = f"<Instruct>: {RERANK_INSTRUCTION}\n<Query>: {query}\n<Document>: {document}"
    return [{"role": "system", "content": RERANK_SYSTEM}, *_user(text)]


#: messages, tools, thinking
CASES: list[tuple[list[dict[str, Any]], list[Any] | None, bool]] = [
    (_user("Hello!"), None, False),
    (_user("Hello!"), None, True),
    (_user("Tell me a short story."), None, False),
    (_user("What is the capital of France?"), None, False),
    (_user("What is the capital of France?"), None, True),
    (_user("What is the weather in Paris?"), [WEATHER], False),
    (_user("What is the weather in Paris?"), [WEATHER], True),
    (CALLED, [WEATHER], False),
    (_user("Play the song Yellow."), [WEATHER], False),
    (_user("My name is Ada."), None, False),
    (ADA, None, False),
    (ADA, None, True),
    (_user("Turn this into JSON: Ada is 36 years old and lives in Paris."), None, False),
    (_user("Ada is 36 years old and lives in Paris. Return JSON."), None, False),
    (_user("Say: lamp"), None, False),
    (_user("Count from 1 to 5."), None, False),
    (_user(classify_prompt("The team won the match.", ["weather", "sports", "music"])), None, False),
    (_user(classify_prompt("This film was terrible.", ["positive", "negative"])), None, False),
    (_rerank("What is the capital of France?", "Paris is the capital of France."), None, False),
    (_rerank("What is the capital of France?", "The lamp costs 20 dollars."), None, False),
    ([{"role": "system", "content": NOTE}, *_user("What is the weather in Paris?")], [WEATHER, DONE], False),
    ([{"role": "system", "content": NOTE}, *CALLED], [WEATHER, DONE], False),
    (_user("Alice owns a red bike. Bob owns a drum.\n\nWhat does Bob own?"), None, False),
]  # fmt: skip


def answer(engine: LlamaCpp, ids: list[int]) -> tuple[str, float]:
    """The greedy output and its smallest margin."""
    out = engine.greedy(ids, LIMIT)
    margin, fed = float("inf"), list(ids)
    for token in [*out, None]:
        low, high = np.sort(engine.next_logits(fed))[-2:]
        margin = min(margin, float(high - low))
        if token is not None:
            fed.append(token)
    return engine.decode(out), round(margin, 2)


def main() -> None:
    """Write the file anew."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEMO)
    parser.add_argument("--out", type=Path, default=OUT)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        derive(args.folder / SOURCE, Path(temporary))
        files = {"f16": args.folder / SOURCE, "q8_0": Path(temporary) / QUANTIZED}
        engines = {name: LlamaCpp(path) for name, path in files.items()}
    rows = []
    for messages, tools, thinking in CASES:
        row: dict[str, Any] = {"messages": messages, "tools": tools, "thinking": thinking}
        for name, engine in engines.items():
            text, margin = answer(engine, engine.encode(render(messages, tools, thinking)))
            row[name], row[f"{name}_margin"] = text, margin
        rows.append(row)
        same = "same" if row["f16"] == row["q8_0"] else f"Q8_0: {row['q8_0']!r}"
        print(f"{messages[-1]['content'][-60:]!r} think={thinking} tools={bool(tools)}\n"
              f"  {row['f16']!r} margin {row['f16_margin']}\n  {same}")  # fmt: skip
    args.out.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
