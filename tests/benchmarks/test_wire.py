"""The benchmark of the wire runs and adds up. What it measures is nobody's test."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks.wire import peers, report
from benchmarks.wire.__main__ import run, write
from benchmarks.wire.client import Framing, PeerFailed, Wire

pytestmark = pytest.mark.process


def test_a_small_round_fills_the_table(tmp_path: Path) -> None:
    own = peers.own_peers(tmp_path / "state", sys.executable, events=300)
    rounds = run(own, 1, 0.05)
    write(rounds, tmp_path)
    ours, floor = rounds[0][report.OURS], rounds[0][report.FLOOR]
    assert ours.keys() == report.COLUMNS.keys()
    assert ours.keys() - floor.keys() == {"relayed_events_per_s", "relayed_cpu_us_per_event"}
    assert all(value > 0 for value in [*ours.values(), *floor.values()])
    assert json.loads((tmp_path / "results.json").read_text()) == rounds
    text = (tmp_path / "RESULTS.md").read_text()
    assert "| ping p50, µs | times asyncio + msgspec (floor) | ≤ 1.4 |" in text


def test_a_bar_is_met_by_the_median_of_ratios_within_rounds() -> None:
    def one_round(ours: float, theirs: float) -> report.Round:
        return {report.OURS: {"p50_us": ours}, report.FLOOR: {"p50_us": theirs}}

    slow_machine = one_round(140, 100)
    assert "1.20 (1.10 to 1.40) | met" in report.bars(
        [one_round(11, 10), one_round(12, 10), slow_machine]
    )
    assert "1.50 (1.50 to 1.50) | **missed**" in report.bars([one_round(15, 10)])


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
def test_the_client_counts_messages_however_they_come(framing: Framing) -> None:
    program = """
import sys
for message in (b"a", b"b" * 200_000, b"cc"):
    data = message + b"\\n"
    if sys.argv[1] == "lsp":
        data = b"Content-Length: %d\\r\\nOther: 1\\r\\n\\r\\n" % len(message) + message
    for start in range(0, len(data), 50_000):
        sys.stdout.buffer.write(data[start:start + 50_000])
        sys.stdout.flush()
"""
    wire = Wire([sys.executable, "-c", program, framing], framing, {})
    try:
        messages: list[bytes] = []
        while len(messages) < 3:
            messages += wire.receive()
        assert messages == [b"a", b"b" * 200_000, b"cc"]
        with pytest.raises(PeerFailed):
            wire.receive()
    finally:
        wire.close()
