"""Read a lock file: print one package of it, everything but that package, or its version.

    lockfile.py only    NAME LOCKFILE    the locked entry of NAME, with its hashes
    lockfile.py without NAME LOCKFILE    the lock file less that entry
    lockfile.py version NAME LOCKFILE    the locked version of NAME

Standard library only, because it runs before anything is installed.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path

_ENTRY = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)")


def entries(text: str) -> Iterator[tuple[str, str, str]]:
    """Yield (name, version, block of text) of every locked package."""
    block: list[str] = []
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        block.append(line)
        if not line.endswith("\\"):
            entry = "\n".join(block)
            block = []
            if match := _ENTRY.match(entry):
                yield match["name"], match["version"], entry


def main(arguments: list[str]) -> int:
    """Answer one question about a lock file."""
    if len(arguments) != 3 or arguments[0] not in {"only", "without", "version"}:
        print(__doc__, file=sys.stderr)
        return 2
    question, wanted, path = arguments
    locked = list(entries(Path(path).read_text(encoding="utf-8")))
    found = [(version, block) for name, version, block in locked if name == wanted]
    if not found:
        print(f"{path} does not lock {wanted}: run `make lock`", file=sys.stderr)
        return 1
    if question == "version":
        print(found[0][0])
    elif question == "only":
        print("\n".join(block for _, block in found))
    else:
        print("\n".join(block for name, _, block in locked if name != wanted))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
