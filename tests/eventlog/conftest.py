"""A log in an empty directory, and the clock that it reads."""

from datetime import UTC, datetime, timedelta

import pytest

from car_rpc.eventlog.writer import EventLog


class Clock:
    """Moves one second with every reading."""

    def __init__(self):
        self.moment = datetime(2026, 1, 31, 8, 30, tzinfo=UTC)

    def __call__(self):
        now = self.moment
        self.moment += timedelta(seconds=1)
        return now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state" / "car-rpc.db"


@pytest.fixture
async def log(path, clock):
    log = EventLog.open(path, "session-1", clock)
    yield log
    await log.close()
