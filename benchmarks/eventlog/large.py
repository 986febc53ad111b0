"""A log of months: how fast it opens, answers and is verified."""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from car_rpc.eventlog.deletion import empty_write_ahead_log
from car_rpc.eventlog.store import EventRow, Store, select
from car_rpc.eventlog.verification import Verified, verify_page
from car_rpc.wire.log import EventlogQueryParams

#: Rows of one request.
STORY = ("request", "route", "attempt", "deltas", "deltas", "deltas", "usage", "completion")
#: Requests of one conversation.
TALK = 20
_BATCH = 2000
_TRIES = 200


def fill(path: Path, count: int) -> None:
    """Write a log of so many events."""
    store = Store.open(path)
    numbers = iter(range(count))
    while rows := [_row(number) for number, _ in zip(numbers, range(_BATCH), strict=False)]:
        store.append(rows)
    store.close()
    empty_write_ahead_log(path)


def _row(number: int) -> EventRow:
    request, place = divmod(number, len(STORY))
    seconds = request * 2
    day, rest = divmod(seconds, 86_400)
    hour, minute, second = rest // 3600, rest // 60 % 60, rest % 60
    month, day = divmod(day, 28)
    ts = f"2026-{month % 12 + 1:02}-{day + 1:02}T{hour:02}:{minute:02}:{second:02}.000Z"
    data = f'{{"events":[{{"type":"text_delta","text":"{"a word of it " * 12}"}}],"n":{number}}}'
    talk = f"talk-{request // TALK}"
    return EventRow(ts, f"ses_{request // 500}", f"tr_{request}", talk, 1, STORY[place], data)


def measured(path: Path, count: int) -> Iterator[tuple[str, str]]:
    """What is asked of it, and how long that takes."""
    opening: list[float] = []
    for _ in range(20):
        began = time.perf_counter()
        Store.open(path).close()
        opening.append(time.perf_counter() - began)
    yield "open", _told(opening)
    requests = count // len(STORY)
    asked: dict[str, Callable[[], EventlogQueryParams]] = {
        "newest 100": lambda: EventlogQueryParams(order="desc"),
        "a request": lambda: EventlogQueryParams(trace_id=f"tr_{random.randrange(requests)}"),
        "a conversation": lambda: EventlogQueryParams(
            conversation_id=f"talk-{random.randrange(requests // TALK)}", limit=1000
        ),
        "newest 100 of one type": lambda: EventlogQueryParams(types=["completion"], order="desc"),
        "100 from anywhere": lambda: EventlogQueryParams(after_seq=random.randrange(count)),
        "100 since an hour before the end": lambda: EventlogQueryParams(
            since=_row(count - 1800 * len(STORY)).ts
        ),
        "100 since any moment": lambda: EventlogQueryParams(since=_row(random.randrange(count)).ts),
    }
    for name, params in asked.items():
        times: list[float] = []
        for _ in range(_TRIES):
            wanted = params()
            began = time.perf_counter()
            select(path, wanted)
            times.append(time.perf_counter() - began)
        yield name, _told(times)
    began = time.perf_counter()
    verified = Verified()
    while not verified.done:
        verified = verify_page(path, verified)
    assert verified.bad_seq is None
    yield "verify", f"{verified.checked / (time.perf_counter() - began):,.0f} events/s"


def _told(times: list[float]) -> str:
    p99 = statistics.quantiles(times, n=100)[98]
    return f"{statistics.median(times) * 1000:.2f} ms (99 %: {p99 * 1000:.2f} ms)"
