"""Accuracy on the fixed probes, by greedy decoding in llama.cpp; prints a Markdown table."""

from __future__ import annotations

import argparse
import hashlib
import json
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lexicon as lx
from engines import LlamaCpp
from export import DEMO
from template import render

PROBES = Path(__file__).parent / "probes"
#: tokens; a few probes of the skill "longest" are longer than any training row and are left out
LONGEST = 2048
Row = dict[str, Any]


def check_hashes() -> None:
    """The probes must be the ones that were fixed before training."""
    for line in (PROBES / "SHA256").read_text().splitlines():
        want, name = line.split()
        if hashlib.sha256((PROBES / name).read_bytes()).hexdigest() != want:
            raise SystemExit(f"probes/{name} was changed after it was fixed")


def split_think(text: str) -> tuple[str, str]:
    """Reasoning and answer of an output."""
    if text.startswith("<think>") and "</think>" in text:
        think, answer = text[len("<think>") :].split("</think>", 1)
        return think.strip(), answer.lstrip("\n")
    return "", text


def calls(text: str) -> list[Any] | None:
    """The tool calls in an answer; None when one is not JSON."""
    try:
        return [
            json.loads(c) for c in re.findall(r"<tool_call>\n(.*?)\n</tool_call>", text, re.DOTALL)
        ]
    except json.JSONDecodeError:
        return None


def _story(answer: str, meta: Row) -> bool:
    """A story is right if it starts, ends, keeps its hero and names at most one other person."""
    match = re.match(r"Once upon a time there was an? \w+ (\w+) named (\w+)\.", answer)
    if not match or not answer.endswith(" The end.") or not 6 <= answer.count(".") <= 9:
        return False
    hero, name = match.groups()
    if meta.get("hero", hero) != hero or (meta.get("name") or name) != name:
        return False
    others = set(re.findall(r"named (\w+)", answer)) - {name}
    return answer.count(name) >= 3 and len(others) <= 1 and hero in lx.STORY_HEROES


def correct(row: Row, answer: str) -> bool:
    """Judge an answer by the rule that its probe names."""
    match, accept = row["match"], row["accept"]
    if match == "story":
        return _story(answer, row.get("meta", {}))
    if match == "exact":
        return answer in accept
    if match == "contains":
        return any(a.lower() in answer.lower() for a in accept)
    if match == "all":
        return all(a.lower() in answer.lower() for a in accept)
    if match == "json":
        try:
            return json.loads(answer) == json.loads(accept[0])
        except json.JSONDecodeError:
            return False
    found = calls(answer)
    if not found:
        return False
    if match == "done":
        text = str(found[0].get("arguments", {}).get("result", ""))
        return found[0].get("name") == "done" and all(a.lower() in text.lower() for a in accept)
    want = calls(accept[0]) or [json.loads(accept[0])]
    return found == want


def run(engine: LlamaCpp, name: str) -> Iterator[tuple[Row, str, bool, int]]:
    """probe, output, verdict, prompt tokens of every row of a probe file."""
    for line in (PROBES / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        ids = engine.encode(render(row["messages"], row["tools"], row["thinking"]))
        if len(ids) > LONGEST:
            continue
        output = engine.decode(engine.greedy(ids, 256))
        think, answer = split_think(output)
        # With thinking on, the reasoning must be there; its words are not judged.
        good = correct(row, answer) and bool(think) == row["thinking"]
        yield row, output, good, len(ids)


def evaluate(path: Path, names: list[str], failures: Path | None) -> dict[str, Any]:
    """Counts per probe file and skill: [right, all]; for ``depth`` the mean prompt tokens too."""
    engine = LlamaCpp(path, context=LONGEST + 256)
    result: dict[str, Any] = {}
    lines: list[str] = []
    for name in names:
        table: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
        modes = {False: [0, 0], True: [0, 0]}
        for row, output, good, tokens in run(engine, name):
            entry = table[row["skill"]]
            entry[0] += good
            entry[1] += 1
            entry[2] += tokens
            modes[row["thinking"]][0] += good
            modes[row["thinking"]][1] += 1
            if not good:
                asked = row["messages"][-1]["content"][-200:]
                lines.append(
                    f"{name}/{row['skill']} {asked!r}\n  got {output!r}\n  not {row['accept']}"
                )
        result[name] = {k: [int(a), int(n), int(t / n)] for k, (a, n, t) in table.items()}
        result[name]["ALL"] = [
            sum(m[0] for m in modes.values()),
            sum(m[1] for m in modes.values()),
            0,
        ]
        result[name]["thinking off"], result[name]["thinking on"] = (
            [*modes[False], 0],
            [*modes[True], 0],
        )
    engine.close()
    if failures:
        failures.write_text("\n".join(lines), encoding="utf-8")
    return result


def _cell(entry: list[int] | None) -> str:
    return f"{100 * entry[0] / entry[1]:.0f} % ({entry[0]}/{entry[1]})" if entry else ""


def markdown(result: dict[str, Any]) -> str:
    """The accuracy table."""
    columns = [n for n in ("combo", "phrasing") if n in result]
    lines = ["| skill | new combinations | new phrasings |", "|---|---|---|"]
    skills = list(result[columns[0]]) if columns else []
    lines += [
        f"| {s} | " + " | ".join(_cell(result[c].get(s)) for c in columns) + " |" for s in skills
    ]
    if "outside" in result:
        lines += ["", "| hand-written, outside the templates | right |", "|---|---|"]
        lines += [f"| {s} | {_cell(e)} |" for s, e in result["outside"].items() if e[1]]
    if "depth" in result:
        lines += ["", "| recall over a chat of (mean tokens) | right |", "|---|---|"]
        lines += [f"| {e[2]} | {_cell(e)} |" for s, e in result["depth"].items() if "depth" in s]
    return "\n".join(lines)


def main() -> None:
    """Evaluate one GGUF."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO / "tiny-chat-F16.gguf")
    parser.add_argument("--probes", nargs="*", default=["combo", "phrasing", "outside", "depth"])
    parser.add_argument("--failures", type=Path, help="write what went wrong to this file")
    parser.add_argument("--json", type=Path, help="write the counts to this file")
    args = parser.parse_args()
    check_hashes()
    result = evaluate(args.model, args.probes, args.failures)
    print(f"## {args.model.name}\n\n{markdown(result)}")
    if args.json:
        args.json.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
