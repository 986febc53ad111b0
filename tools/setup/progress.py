"""Show the steps of a compilation (stdin: the log of pip, cmake and ninja) with the time gone by.

A step that takes long is not silent either: every line counts the seconds since the start, and a
step of cmake, of ninja or of pip is a line. Everything else is left to the log file.
"""

import re
import sys
from time import monotonic

_STEP = re.compile(
    r"^\s*(?:\[\d+/\d+\]|-- |\*\*\* |Building wheel|Successfully built|ERROR|error:)"
)
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
_WIDTH = 100


def main() -> None:
    """Copy the lines worth showing from stdin to stdout."""
    start = monotonic()
    for raw in sys.stdin:
        line = _COLOUR.sub("", raw)
        if _STEP.match(line):
            print(f"[{monotonic() - start:4.0f} s] {line.strip()[:_WIDTH]}", flush=True)


if __name__ == "__main__":
    main()
