"""Write the probe files: once, before training; their hashes are recorded in ``probes/SHA256``.

``combo.jsonl``: known phrasings, combinations kept out of training. ``phrasing.jsonl``: phrasings
kept out of training. ``depth.jsonl``: a name or code given at the start of a chat of a given size.
``outside.jsonl`` is written by hand, outside every template, and only hashed here.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import skills_chat as sc
from corpus import SKILLS, make
from draw import Draw, Sample

PROBES = Path(__file__).parent / "probes"
SEED = 90_210  #: no training pool starts from it
PER_SKILL = 40
FEW = {"long_chat": 16, "longest": 10, "chat": 24, "done": 30}
DEPTHS = (250, 500, 750, 1000, 1500, 1900)  #: tokens, about


def row(s: Sample, thinking: bool) -> dict[str, object]:
    return {
        "skill": s.skill, "messages": s.messages, "tools": s.tools, "thinking": thinking,
        "think": s.think, "match": s.check, "accept": [s.answer], "meta": s.meta,
    }  # fmt: skip


def split(name: str) -> list[dict[str, object]]:
    d = Draw(SEED, name)
    rows = []
    for skill in SKILLS:
        for i in range(FEW.get(skill, PER_SKILL)):
            s = make(skill, d)
            rows.append(row(s, i % 2 == 1 and skill != "relevance"))
    return rows


def depth() -> list[dict[str, object]]:
    d = Draw(SEED + 1, "combo")
    rows = []
    for tokens in DEPTHS:
        done = 0
        while done < 20:
            kind = sc.INTROS[(0, 1, 8)[done % 3]]  # name, city, code
            turns, ask, answer, text = sc._intro(d, kind)
            size = 0
            while size < tokens * 3.15:
                block = sc._filler(d)
                turns += block
                size += sum(len(m["content"]) + 20 for m in block)
            s = Sample(f"depth_{tokens}", [*turns, sc.user(ask)], answer, f"The user said: {text}")
            rows.append(row(s, done % 2 == 1))
            done += 1
    return rows


def main() -> None:
    """Write the generated probes and the hashes of all four files."""
    made = {"combo": split("combo"), "phrasing": split("phrasing"), "depth": depth()}
    for name, rows in made.items():
        text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows)
        (PROBES / f"{name}.jsonl").write_text(text, encoding="utf-8")
    lines = [
        f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n"
        for p in sorted(PROBES.glob("*.jsonl"))
    ]
    (PROBES / "SHA256").write_text("".join(lines))
    print("".join(lines), end="")


if __name__ == "__main__":
    main()
