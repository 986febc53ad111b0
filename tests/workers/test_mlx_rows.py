"""A batch's cache that is as fast as that of one sequence while there is only one."""

from typing import Any

import pytest

pytest.importorskip("mlx_lm")

from car_rpc.workers.mlx.native import KVCache, mx
from car_rpc.workers.mlx.rows import Rows

pytestmark = pytest.mark.mlx


def read(cache: Any, *numbers: int) -> list[int]:
    """Read tokens that are remembered as these numbers; returns all that are remembered."""
    keys, values = cache.update_and_fetch(*[mx.array(numbers).reshape(1, 1, -1, 1)] * 2)
    assert mx.array_equal(keys, values)
    return list(keys.reshape(-1).tolist())


@pytest.mark.parametrize("cut", [0, 2])
def test_what_was_read_stays_as_it_is_for_those_that_go_on_otherwise(cut: int) -> None:
    kept, part = KVCache(), KVCache()
    read(kept, 1, 2, 3, 4)
    part.state = kept.state  # the same arrays
    part.trim(cut)
    assert read(Rows.merge([part]), 7, 8) == [*[1, 2, 3, 4][: 4 - cut], 7, 8]
    assert kept.keys_and_values()[0].reshape(-1).tolist() == [1, 2, 3, 4]
    assert part.offset == 4 - cut


def test_of_one_that_has_filled_its_arrays_no_more_is_changed() -> None:
    kept = KVCache()
    read(kept, *range(KVCache.step))
    rows = Rows.merge([kept])
    assert read(rows, 7)[-2:] == [KVCache.step - 1, 7]
    assert kept.keys.shape[2] == kept.offset == KVCache.step


def test_one_that_stays_alone_is_not_copied_and_one_that_leaves_others_is_as_before() -> None:
    kept, other = KVCache(), KVCache()
    read(kept, 1, 2)
    read(other, 5, 6, 7)
    rows = Rows.merge([kept])
    before = rows.keys
    rows.filter([0])
    assert rows.keys is before
    rows.extend(Rows.merge([other]))
    rows.filter([0])
    assert read(rows, 3) == [1, 2, 3]
    assert rows.offset == kept.offset + 1


def test_of_one_of_which_nothing_was_read_nothing_is_known() -> None:
    assert Rows([0, 0]).extract(1).empty()
