"""Check the shipped files: recorded hashes, and that both engines do the same with them.

Tokens, rendered templates and greedy outputs must be equal; the reranker must give the softmax of
the "yes" and "no" logits; mean embeddings must agree. Prints a table, returns 1 on any failure.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from corpus import make, texts
from derive import DEMO, MANIFEST, QUANTIZED, SOURCE, problems
from derive import derive as derive_files
from draw import Draw
from engines import LlamaCpp, Mlx
from template import RERANK_INSTRUCTION, RERANK_PROMPT, render

STRINGS = [
    "Hello, world!", "  leading and trailing  ", "tabs\tand\nnewlines\r\n\r\n end", "",
    "Grüße aus Köln, ça va?", "日本語のテキスト", "Привет, мир", "مرحبا بالعالم", "עברית", "हिन्दी",
    "emoji 😀👩‍👩‍👧‍👦🇫🇷", "e\u0301 vs é", "\u200bzero\u200dwidth", "12345 3.14 1,000", "it's I'm WE'LL",
    "<|im_start|>user\nHi<|im_end|>\n", "<think>\n\n</think>\n\n", "<tool_call>\n{}\n</tool_call>",
    "<|endoftext|>", "<|im_start", "<thinking>", "\x00\x01\x7f", "a" * 300, " " * 50, "\n" * 20,
    '{"name": "x", "arguments": {"k": [1, 2, {"z": null}]}}', "def f(x):\n    return x ** 2\n",
    "https://example.org/?q=1&r=%20#top", "C:\\path\\to\\file", "½ ² ³ ① Ⅳ", "ﬁ ﬂ ligatures", "٣٤٥",
]  # fmt: skip
TOOL = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city <now> & later",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    },
}


class Report:
    """Collects one line per check."""

    def __init__(self) -> None:
        self.failed = 0

    def add(self, name: str, good: int, total: int, note: str = "") -> None:
        self.failed += good != total
        print(f"| {name} | {good}/{total} | {note} |", flush=True)


def strings() -> list[str]:
    """Awkward strings, and text of every skill."""
    d = Draw(31, "combo")
    from corpus import SKILLS

    return STRINGS + [part for name in SKILLS for _ in range(4) for part in texts(make(name, d))]


def tokens(report: Report, llama: LlamaCpp, mlx: Mlx) -> None:
    """Equal token ids, and decoding gives the text back."""
    cases = strings()
    report.add("token ids equal", sum(llama.encode(s) == mlx.encode(s) for s in cases), len(cases))
    back = [llama.decode(llama.encode(s)) == s == mlx.decode(mlx.encode(s)) for s in cases]
    report.add("decoding gives the text back", sum(back), len(back), "both engines")


def conversations() -> list[tuple[list[Any], list[Any] | None, bool]]:
    """Messages, tools, thinking: of every skill, and corner cases of the template."""
    from corpus import SKILLS

    d = Draw(32, "combo")
    made = [make(name, d) for name in SKILLS for _ in range(4)]
    out = [(s.messages, s.tools, s.thinking) for s in made]
    u, a = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}
    call = {"function": {"name": "get_weather", "arguments": {"city": "Zürich"}}}
    thought = {"role": "assistant", "content": "<think>\nhm\n</think>\n\nYes."}
    out += [
        ([u, a, u], None, True), ([u, thought, u], None, True), ([u, a, {**u, "content": "<b>&'\""}], [TOOL], False),
        ([u, {"role": "assistant", "content": "Let me see.", "tool_calls": [call, call]},
          {"role": "tool", "content": "1"}, {"role": "tool", "content": "2"}], [TOOL], True),
        ([{"role": "system", "content": "S"}, u, {"role": "system", "content": "T"}, u], [TOOL], True),
    ]  # fmt: skip
    return out


def templates(report: Report, llama: LlamaCpp, folder: Path) -> None:
    """The same text from our renderer, llama-cpp-python's and mlx-lm's (transformers)."""
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter
    from mlx_lm.tokenizer_utils import load as load_tokenizer

    wrapped = load_tokenizer(folder)
    formatter = Jinja2ChatFormatter(
        template=llama.template(),
        eos_token="<|im_end|>",  # noqa: S106
        bos_token="",
        add_generation_prompt=True,
    )
    good, cases = 0, conversations()
    for messages, tools, thinking in cases:
        want = render(messages, tools, thinking)
        one = formatter(messages=messages, tools=tools, enable_thinking=thinking).prompt
        two = wrapped._tokenizer.apply_chat_template(
            messages, tools=tools, enable_thinking=thinking, tokenize=False,
            add_generation_prompt=True,
        )  # fmt: skip
        good += want == one == two
    report.add("rendered conversations equal", good, len(cases), "own, llama-cpp-python, mlx-lm")


def prompts(tok: Callable[[str], list[int]], each: int) -> list[list[int]]:
    """Tokenized prompts of all skills, up to 400 tokens."""
    from corpus import SKILLS

    d = Draw(33, "combo")
    out = [tok(texts(make(name, d))[0]) for name in SKILLS for _ in range(each)]
    return [ids for ids in out if len(ids) <= 400]


def greedy(report: Report, llama: LlamaCpp, folder: Path, each: int) -> None:
    """Equal greedy outputs, and how far the logits are apart on the same tokens."""
    for dtype in ("float16", "float32"):
        mlx = Mlx(folder, dtype)
        cases = prompts(mlx.encode, each)
        same = sum(llama.greedy(ids, 48) == mlx.greedy(ids, 48) for ids in cases)
        report.add("greedy outputs equal", same, len(cases), f"llama.cpp F16, MLX {dtype}")
        worst, agree, count = 0.0, 0, 0
        for ids in cases[::6]:
            a, b = llama.forced(ids[:120]), mlx.forced(ids[:120])
            worst = max(worst, float(np.abs(a - b).max()))
            agree += int((a.argmax(1) == b.argmax(1)).sum())
            count += len(a)
        # The most likely token may tie on prompt text, which is noise; it must not differ often.
        report.add("most likely token equal", count if agree >= 0.99 * count else agree, count,
                   f"{agree} of {count}, largest logit difference {worst:.3f}, MLX {dtype}")  # fmt: skip


def pooling(report: Report, gguf: Path, mlx: Mlx | None) -> None:
    """Rank pooling against the softmax of the two logits; mean pooling against MLX."""
    chat, rank = LlamaCpp(gguf), LlamaCpp(gguf, 1024, "rank")
    yes, no = chat.encode("yes")[0], chat.encode("no")[0]
    d, worst, count = Draw(34, "combo"), 0.0, 24
    for _ in range(count):
        s = make("relevance", d)
        prompt = render(s.messages, None, False)
        body = s.messages[-1]["content"]
        query, document = body.split("\n<Query>: ")[1].split("\n<Document>: ")
        if RERANK_INSTRUCTION in body and prompt != RERANK_PROMPT.format(
            instruction=RERANK_INSTRUCTION, query=query, document=document
        ):
            worst = 1.0
        ids = chat.encode(prompt)
        logits = chat.next_logits(ids)[[yes, no]]
        want = np.exp(logits - logits.max()) / np.exp(logits - logits.max()).sum()
        worst = max(worst, float(np.abs(rank.pooled(ids, 2) - want).max()))
    report.add("rank = softmax(yes, no)", count if worst < 1e-3 else 0, count,
               f"{gguf.name}, largest difference {worst:.1e}")  # fmt: skip
    chat.close()
    rank.close()
    if mlx:
        mean, low = LlamaCpp(gguf, 1024, "mean"), 1.0
        cases = prompts(mlx.encode, 1)
        for ids in cases:
            a, b = mean.pooled(ids, 256), mlx.hidden_mean(ids)
            low = min(low, float(a @ b / np.linalg.norm(a) / np.linalg.norm(b)))
        report.add("mean embeddings agree", len(cases) if low > 0.9999 else 0, len(cases),
                   f"lowest cosine {low:.7f}")  # fmt: skip
        mean.close()


def main() -> int:
    """Run all checks on a folder of shipped files."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEMO)
    parser.add_argument("--each", type=int, default=4, help="greedy prompts per skill")
    args = parser.parse_args()
    source, report = args.folder / SOURCE, Report()
    print("| check | passed | note |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        derive_files(source, out)
        wrong = problems(args.folder / MANIFEST, source, out)
        report.add("files have their recorded hashes", 7 - len(wrong), 7, "derived anew")
        llama, mlx = LlamaCpp(source), Mlx(out / "mlx")
        tokens(report, llama, mlx)
        templates(report, llama, out / "mlx")
        greedy(report, llama, out / "mlx", args.each)
        pooling(report, source, mlx)
        pooling(report, out / QUANTIZED, None)
    return 1 if report.failed else 0


if __name__ == "__main__":
    raise SystemExit(main())
