"""Measure the wire beside its peers, and write what came of it."""

from __future__ import annotations

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from benchmarks.wire import report
from benchmarks.wire.client import PeerFailed
from benchmarks.wire.install import install
from benchmarks.wire.measure import latencies, measure
from benchmarks.wire.peers import Peer, all_peers, own_peers

HERE = Path(__file__).parent

#: The large message is only sent in the first rounds: it takes the longest.
LARGE_ROUNDS = 3

TEXT = """# How fast the wire is

Written by `make bench-wire` on {date}: {machine}, {versions}.
{rounds} rounds. In each round every peer runs once, one after the other, in a process of its own;
only for the latency of a ping do all of them run at once, and take short turns. Figures are medians
over the rounds; a ratio is taken within a round, so that what else the machine does falls on both
sides. The load of the machine was {load} at the end.

{table}

One client drives all of them over pipes and does not look into messages. *start* is from the
creation of the process to the first reply. *memory* is resident, after the pings. An event of a
stream carries a short text. car-rpc keeps every event in its event log, no peer has one; its
relayed events come from the client, as those of an app's own model do, and go back to it. Its
echo is a `generate` on a scripted model that repeats its prompt, so those 32 MiB are checked for
secrets and written to the log twice. The MCP TypeScript SDK refuses messages of that size. The
floor is what asyncio and msgspec make of the same wire without bounds, cancels, checks or a log.

## Bars

{bars}
"""


def main() -> None:
    """Run the rounds that were asked for."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wire", description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--seconds", type=float, default=0.7, help="of each series of pings")
    parser.add_argument("--own", action="store_true", help="only car-rpc and the floor")
    parser.add_argument("--output", type=Path, default=HERE, help="folder for the results")
    options = parser.parse_args()
    if not options.own:
        install()
    with tempfile.TemporaryDirectory() as directory:
        make = own_peers if options.own else all_peers
        rounds = run(make(Path(directory)), options.rounds, options.seconds)
    write(rounds, options.output)


def run(peers: list[Peer], count: int, seconds: float) -> list[report.Round]:
    """Measure every peer in every round."""
    rounds: list[report.Round] = []
    for number in range(count):
        rounds.append(latencies(peers, seconds))
        for peer in peers:
            try:
                rounds[-1][peer.title] |= measure(peer, seconds, large=number < LARGE_ROUNDS)
            except PeerFailed as error:
                sys.exit(f"{peer.title}: {error}")
            print(f"{number + 1}/{count} {peer.title}", file=sys.stderr)
    return rounds


def write(rounds: list[report.Round], folder: Path) -> None:
    """Write RESULTS.md for people and results.json with every figure."""
    text = TEXT.format(
        date=datetime.now(UTC).date(),
        machine=f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}",
        versions=f"Python {platform.python_version()}",
        rounds=len(rounds),
        load=f"{os.getloadavg()[0]:.1f}",
        table=report.table(rounds),
        bars=report.bars(rounds),
    )
    (folder / "RESULTS.md").write_text(text, encoding="utf-8")
    (folder / "results.json").write_text(json.dumps(rounds, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
