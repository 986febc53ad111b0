"""What an overflow advises, by what the limit is."""

from __future__ import annotations

import pytest

from car_rpc.backends.local.advice import advised
from car_rpc.wire.worker import Failed, Load, Loaded, Reply

LARGER = ", or register the model with a larger `context_length`: it was trained on 4096 tokens"
MEMORY = (
    ", or unload other models or close other programs, as memory is short: it was trained on 4096"
    " tokens"
)


def advice(
    limit: int,
    load: Load,
    loaded: Loaded,
    *,
    generates: bool = True,
    kind: str = "context_overflow",
) -> str:
    failed = Failed(id=1, kind=kind, detail="shorten it", data={"context_length": limit})
    answer = advised(failed, load, loaded, generates=generates)
    assert isinstance(answer, Failed)
    return answer.detail.removeprefix("shorten it")


GROWN = Loaded(context_length=2048, context_trained=4096)
FIXED = Loaded(context_length=2048, context_trained=4096, context_is_fixed=True)


@pytest.mark.parametrize("generates", [True, False])
def test_a_larger_entry_is_advised_where_the_entry_is_the_limit(generates: bool) -> None:
    load = Load(context_length=2048)
    assert advice(2048, load, GROWN, generates=generates) == LARGER
    assert advice(2048, load, FIXED, generates=generates) == LARGER


def test_a_first_entry_is_advised_where_a_worker_gives_no_more_without() -> None:
    assert advice(2048, Load(), FIXED) == LARGER


def test_more_memory_is_advised_where_the_context_grows_as_memory_allows() -> None:
    assert advice(2048, Load(), GROWN) == MEMORY
    assert advice(1024, Load(), GROWN) == MEMORY, "less of it is free than when it was loaded"


def test_nothing_is_advised_where_neither_is_the_limit() -> None:
    trained = Loaded(context_length=4096, context_trained=4096)
    assert advice(4096, Load(), trained) == ""
    assert advice(4096, Load(context_length=4096), trained) == ""
    assert advice(512, Load(context_length=2048), GROWN) == "", "texts to embed have their own"
    assert advice(2048, Load(), GROWN, generates=False) == ""
    assert advice(2048, Load(), Loaded(context_length=2048)) == "", "nobody knows of more"
    assert advice(2048, Load(), GROWN, kind="rate_limited") == ""


def test_what_is_no_failure_stays_as_it_is() -> None:
    reply = Reply(id=1, result=None)
    assert advised(reply, Load(), GROWN, generates=True) is reply
