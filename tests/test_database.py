"""How stores write their rows."""

from pathlib import Path

import pytest

from car_rpc.database import Database


@pytest.mark.parametrize(("flushes", "synchronous"), [(True, 2), (False, 1)])
def test_who_may_lose_rows_with_the_power_does_not_wait_for_the_disk(
    tmp_path: Path, flushes: bool, synchronous: int
) -> None:
    database = Database(tmp_path / "car.db", "", flushes=flushes)
    with database.transaction() as writer:
        # FULL is 2 and NORMAL 1 (SQLite, "PRAGMA synchronous").
        assert writer.execute("PRAGMA synchronous").fetchone() == (synchronous,)
    database.close()
