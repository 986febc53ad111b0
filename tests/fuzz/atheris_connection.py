"""Coverage-guided fuzzing of the protocol's state machine, judged like the random dialogues.

It needs atheris, which is not among the development tools (`pip install atheris`; CPython on Linux
or macOS). From the root of the repository, for five minutes:

    python -m tests.fuzz.atheris_connection -max_total_time=300

All options of libFuzzer work; a folder among the arguments keeps the inputs that were new. A
failing input is left in a file named crash-*, and plays again when it is the argument.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import atheris  # pyright: ignore[reportMissingImports, reportMissingModuleSource]  # see above

with atheris.instrument_imports(include=["car_rpc.protocol"]):
    from tests.fuzz.peer import judge_dialogue

from tests.fuzz.strategies import SEEDS


def one_input(data: bytes) -> None:
    """The first byte chooses the framing, two more where the stream is cut; the rest is lines."""
    framing = "lsp" if data[:1] > b"\x7f" else "ndjson"
    judge_dialogue(framing, data[3:].split(b"\n"), [*data[1:3]])


def main() -> None:
    with tempfile.TemporaryDirectory() as corpus:
        for index, seed in enumerate(SEEDS):
            Path(corpus, f"line-{index}").write_bytes(b"\x00\x05\x40" + seed)
            Path(corpus, f"body-{index}").write_bytes(b"\xff\x05\x40" + seed)
        replays = any(Path(each).is_file() for each in sys.argv[1:])
        atheris.Setup([*sys.argv, *([] if replays else [corpus])], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
