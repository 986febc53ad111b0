"""What is measured of one peer in one round, each time with a fresh process."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from benchmarks.wire.client import Wire
from benchmarks.wire.peers import PIECE, Peer, Streaming, notification

#: Requests that are in flight together in the measurement of throughput.
WINDOW = 64

#: Turns of each peer in the measurement of latency.
TURNS = 10

LARGE_BYTES = 32 * 1024 * 1024

#: Name of a figure to its value.
Figures = dict[str, float]


@contextmanager
def running(peer: Peer) -> Iterator[tuple[Wire, float]]:
    """A peer that is ready, and how long it took to its first reply, in seconds."""
    wire = Wire(peer.command, peer.framing, peer.env)
    try:
        wire.ask(peer.hello)
        started_s = time.perf_counter() - wire.started
        for message in peer.prepare:
            wire.send(message)
            if b'"id"' in message:
                wire.receive()
        wire.ask(peer.ping(2))
        yield wire, started_s
    finally:
        wire.close()


def measure(peer: Peer, budget_s: float, *, large: bool) -> Figures:
    """All figures of one round but those of :func:`latencies`.

    Args:
        peer: Whom to measure.
        budget_s: How long the measurement of throughput lasts, in seconds.
        large: Whether to send the large message, too.
    """
    figures: Figures = {}
    with running(peer) as (wire, started_s):
        figures["start_ms"] = started_s * 1000
        figures |= throughput(wire, peer, budget_s)
        figures["memory_mb"] = wire.memory_bytes() / 1e6
    for name, streaming in peer.streams.items():
        with running(peer) as (wire, _):
            figures |= {f"{name}_{key}": value for key, value in stream(wire, streaming).items()}
    if large and peer.echo is not None:
        with running(peer) as (wire, _):
            text = "x" * LARGE_BYTES
            message = peer.echo(9, text)
            before = time.perf_counter()
            answer = wire.ask(message)
            figures["large_ms"] = (time.perf_counter() - before) * 1000
            assert len(answer) > LARGE_BYTES, answer[:200]
    return figures


def latencies(peers: Sequence[Peer], budget_s: float) -> dict[str, Figures]:
    """One request after the other, by title: all peers run, and take short turns.

    A reply takes so little that what else the machine does in a moment decides about it.
    """
    with ExitStack() as stack:
        wires = [(peer, stack.enter_context(running(peer))[0]) for peer in peers]
        times: dict[str, list[float]] = {peer.title: [] for peer in peers}
        for _ in range(TURNS):
            for peer, wire in wires:
                times[peer.title] += _latency(wire, peer, budget_s / TURNS)
    cuts = {title: statistics.quantiles(each, n=100) for title, each in times.items()}
    return {
        title: {"p50_us": cut[49] * 1e6, "p99_us": cut[98] * 1e6} for title, cut in cuts.items()
    }


def _latency(wire: Wire, peer: Peer, budget_s: float) -> list[float]:
    times: list[float] = []
    end = time.perf_counter() + budget_s
    while (before := time.perf_counter()) < end or not times:
        wire.ask(peer.ping(10 + len(times)))
        times.append(time.perf_counter() - before)
    return times


def throughput(wire: Wire, peer: Peer, budget_s: float) -> Figures:
    """So many requests in flight at all times: each answer brings a new one."""
    cpu_before, before = wire.cpu_s(), time.perf_counter()
    sent = WINDOW
    answered = 0
    wire.send(*[peer.ping(number) for number in range(100, 100 + WINDOW)])
    while answered < sent:
        count = len(wire.receive())
        answered += count
        if time.perf_counter() - before < budget_s:
            wire.send(*[peer.ping(100 + sent + number) for number in range(count)])
            sent += count
    elapsed_s = time.perf_counter() - before
    return {
        "requests_per_s": answered / elapsed_s,
        "cpu_us_per_request": (wire.cpu_s() - cpu_before) / answered * 1e6,
    }


def stream(wire: Wire, streaming: Streaming) -> Figures:
    """One stream from its request to its response."""
    for message in streaming.prepare:
        wire.ask(message)
    cpu_before, before = wire.cpu_s(), time.perf_counter()
    wire.send(streaming.ask(7, streaming.events))
    if streaming.relayed:
        _run(wire, streaming.events)
    events = 0
    answered = False
    while not answered:
        messages = wire.receive()
        events += len(messages)
        # Nothing follows a stream's response, so the last message tells.
        answered = b'"id":7' in messages[-1][:40] or b'"id": 7' in messages[-1][:40]
        answered = answered or messages[-1].endswith(b'"id":7}')
    elapsed_s = time.perf_counter() - before
    assert events > streaming.events, messages[-1][:500]
    return {
        "events_per_s": streaming.events / elapsed_s,
        "cpu_us_per_event": (wire.cpu_s() - cpu_before) / streaming.events * 1e6,
    }


def _run(wire: Wire, count: int) -> None:
    """Be the app's runner: send all events of a run, then its answer."""
    run = json.loads(wire.wait_for(lambda message: b'"runner.run"' in message))
    event = {"type": "text_delta", "text": PIECE}
    params = {"call_id": run["params"]["call_id"], "event": event}
    answer = json.dumps({"jsonrpc": "2.0", "id": run["id"], "result": {}}).encode()
    wire.send(*[notification("runner.event", params)] * count, answer)
