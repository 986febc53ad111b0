"""Load times and token rates of the shipped files in both engines; prints a table."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from derive import QUANTIZED, SOURCE, derive
from engines import LlamaCpp, Mlx
from export import DEMO

PROMPT = 512  #: tokens
OUTPUT = 256  #: tokens
REPEATS = 3


def measure(name: str, load: Callable[[], LlamaCpp | Mlx]) -> None:
    """One row: milliseconds to load, tokens per second to decode and to read a prompt."""
    loads, reads, writes = [], [], []
    for _ in range(REPEATS):
        start = time.perf_counter()
        engine = load()
        loads.append(time.perf_counter() - start)
        ids = (engine.encode("<|im_start|>user\nTell me a story.<|im_end|>\n") * PROMPT)[:PROMPT]
        start = time.perf_counter()
        engine.next_logits(ids)
        reads.append(PROMPT / (time.perf_counter() - start))
        start = time.perf_counter()
        engine.greedy(ids[:16], OUTPUT, ignore_end=True)
        writes.append(OUTPUT / (time.perf_counter() - start))
    print(
        f"| {name} | {1000 * min(loads):.0f} | {max(writes):,.0f} | {max(reads):,.0f} |", flush=True
    )


def main() -> None:
    """Measure every variant; the best of three counts, because other work disturbs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=DEMO)
    args = parser.parse_args()
    print(
        f"| engine and file | load, ms | decode, tok/s | prompt of {PROMPT}, tok/s |\n|---|---|---|---|"
    )
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary)
        derive(args.folder / SOURCE, out)
        measure("llama.cpp F16", lambda: LlamaCpp(args.folder / SOURCE))
        measure("llama.cpp Q8_0", lambda: LlamaCpp(out / QUANTIZED))
        measure("MLX float16", lambda: Mlx(out / "mlx"))
        measure("MLX float32", lambda: Mlx(out / "mlx", "float32"))


if __name__ == "__main__":
    main()
