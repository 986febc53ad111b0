"""What requests cost, what they may cost, and which models that concerns."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.ports import GenerateCall
from car_rpc.errors import CarError
from car_rpc.spend.budget import Budget
from car_rpc.spend.store import SpendStore
from car_rpc.wire.events import Stop, StreamEvent, TextDelta, UsageEvent
from car_rpc.wire.inference import EmbedParams
from car_rpc.wire.models import Cost, ModelSchema
from car_rpc.wire.spend import SpendLimits, SpendUse

#: $1 for a million tokens of a prompt, $10 for as many of an answer.
PRICE = Cost(input_per_mtok_usd=1, output_per_mtok_usd=10)

REMOTE = {"type": "openai_compat", "endpoint": "https://api.example.com", "model": "m"}
SERVER = {**REMOTE, "endpoint": "http://localhost:8080"}

USAGE = UsageEvent(prompt_tokens=100, completion_tokens=50)
ANSWER = (TextDelta(text="hi"), USAGE)

#: One token for a prompt of two letters, four for its turn, and an answer of ten.
RESERVED = 0.000105


class Accounts:
    """An engine with a budget, and models with and without prices."""

    def __init__(self, world: Any, budget: Budget) -> None:
        self.world = world
        self.budget = budget
        world.engine = Engine(
            world.registry, lambda _: world.backend, world.sink, world.clock, world.engine._ids,
            budget=budget,
        )  # fmt: skip

    def model(self, name: str, source: dict[str, Any], cost: Cost | None = PRICE) -> str:
        model_id = f"acme/{name}:1"
        known = {"id": model_id, "source": source, "capabilities": ["generate", "embed"]}
        model = msgspec.convert(known, ModelSchema)
        if cost is not None:
            model = msgspec.structs.replace(model, cost=cost)
        self.world.registry.register(model)
        return model_id

    async def ask(self, model: str, **fields: Any) -> Any:
        self.world.listener.last.clear()
        return await self.world.generate(model=model, **{"params": {"max_tokens": 10}, **fields})

    async def fail(self, model: str, **fields: Any) -> CarError:
        with pytest.raises(CarError) as caught:
            await self.ask(model, **fields)
        return caught.value

    async def total(self) -> SpendUse:
        return (await self.budget.status("")).total


@pytest.fixture
async def accounts(world: Any, tmp_path: Path) -> AsyncIterator[Accounts]:
    budget = Budget(SpendStore(tmp_path / "car.db"), lambda: datetime(2026, 1, 30, tzinfo=UTC))
    yield Accounts(world, budget)
    budget.close()


async def test_an_answer_that_nobody_bounded_goes_on_while_there_is_money_for_it(
    accounts: Accounts, play: Any
) -> None:
    model = accounts.model("one", REMOTE)
    parts = [TextDelta(text="four" * 100) for _ in range(20)]
    usage = UsageEvent(prompt_tokens=1, completion_tokens=2000)
    accounts.world.backend.play = play(*parts, usage)
    # $0.010245 for the first 1024 tokens, and $0.00256 for each 256 more.
    await accounts.budget.set_limits(SpendLimits(max_usd_per_day=0.0205))
    result = await accounts.ask(model, params={})
    assert result.usage.completion_tokens == 2000
    assert (await accounts.total()).used_usd == pytest.approx(0.020001)
    # The next one is told as much as there is money for, and stopped.
    await accounts.budget.set_limits(SpendLimits(max_usd_per_day=0.035))
    error = await accounts.fail(model, params={})
    assert (error.kind, error.data["window"]) == ("spend_limit_exceeded", "day")
    said = sum(
        len(event.text)
        for event in accounts.world.listener.events[-20:]
        if isinstance(event, TextDelta)
    )
    assert 1024 <= said // 4 < 2000
    used = await accounts.total()
    assert used.reserved_usd == 0
    assert 0.030 < used.used_usd <= 0.035


async def test_a_bounded_answer_asks_for_no_more_money_on_its_way(
    accounts: Accounts, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def extend(*_: Any) -> Any:
        raise AssertionError

    monkeypatch.setattr(accounts.budget, "extend", extend)
    parts = [TextDelta(text="four" * 1000) for _ in range(5)]
    accounts.world.backend.play = play(*parts, USAGE)
    await accounts.ask(accounts.model("one", REMOTE), params={"max_tokens": 10})
    await accounts.ask(accounts.model("two", SERVER, None), params={})


async def test_an_answer_costs_what_its_tokens_cost(accounts: Accounts, play: Any) -> None:
    accounts.world.backend.play = play(*ANSWER)
    result = await accounts.ask(accounts.model("one", REMOTE))
    assert result.cost_usd == 0.0006
    assert (await accounts.total()).used_usd == 0.0006


@pytest.mark.parametrize(
    ("source", "cost"),
    [
        ({"type": "local", "path": "x.gguf"}, PRICE),
        ({"type": "mlx", "path": "x"}, None),
        ({"type": "fake", "script": []}, None),
        (SERVER, None),
        ({**SERVER, "endpoint": "http://127.0.0.2:8080"}, None),
        ({"type": "ollama", "model_tag": "m", "host": "http://localhost:11434"}, None),
        ({"type": "vllm_mlx", "model_name": "m", "endpoint": "http://[::1]:8000"}, None),
    ],
)
async def test_what_runs_on_this_machine_costs_nothing_and_is_never_held_up(
    accounts: Accounts, play: Any, source: dict[str, Any], cost: Cost | None
) -> None:
    accounts.world.backend.play = play(*ANSWER)
    await accounts.budget.set_limits(SpendLimits(max_usd_total=0, allow_unpriced=False))
    result = await accounts.ask(accounts.model("one", source, cost))
    assert result.cost_usd is msgspec.UNSET
    total = await accounts.total()
    assert (total.used_usd, total.priced_count, total.unpriced_count) == (0, 0, 0)


@pytest.mark.parametrize("source", [REMOTE, {"type": "delegated"}])
@pytest.mark.parametrize("cost", [None, Cost(), Cost(input_per_mtok_usd=1)])
async def test_an_answer_without_a_price_costs_nobody_knows_what(
    accounts: Accounts, play: Any, source: dict[str, Any], cost: Cost | None
) -> None:
    accounts.world.backend.play = play(*ANSWER)
    await accounts.budget.set_limits(SpendLimits(max_usd_total=0))
    model = accounts.model("one", source, cost)
    assert (await accounts.ask(model)).cost_usd is None
    total = await accounts.total()
    assert (total.used_usd, total.unpriced_count) == (0, 1)
    await accounts.budget.set_limits(SpendLimits(allow_unpriced=False))
    assert (await accounts.fail(model)).extra["limit"] == "allow_unpriced"


async def test_a_scripted_or_local_server_model_with_a_price_costs_it(
    accounts: Accounts, play: Any
) -> None:
    accounts.world.backend.play = play(*ANSWER)
    for name, source in (("fake", {"type": "fake", "script": []}), ("server", SERVER)):
        assert (await accounts.ask(accounts.model(name, source))).cost_usd == 0.0006


async def test_a_limit_refuses_before_the_model_is_asked(accounts: Accounts, play: Any) -> None:
    accounts.world.backend.play = play(*ANSWER)
    model = accounts.model("one", REMOTE)
    await accounts.budget.set_limits(SpendLimits(max_usd_per_call=0.0001))
    error = await accounts.fail(model)
    assert (error.kind, error.extra["needed_usd"]) == ("spend_limit_exceeded", RESERVED)
    assert accounts.world.backend.calls == []
    assert error.extra["model"] == model
    await accounts.budget.set_limits(SpendLimits(max_usd_per_call=RESERVED))
    await accounts.ask(model)
    # Without `max_tokens` it may be 1024 tokens.
    await accounts.budget.set_limits(SpendLimits(max_usd_per_call=0.01024))
    assert (await accounts.fail(model, params={})).extra["needed_usd"] == 0.010245


async def test_a_cheaper_model_is_asked_when_one_does_not_fit(
    accounts: Accounts, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    accounts.world.backend.play = play(*ANSWER)
    dear, cheap = accounts.model("a", REMOTE), accounts.model("b", SERVER, None)
    await accounts.budget.set_limits(SpendLimits(max_usd_total=0))
    both = accounts.world.engine.routing.generate

    def dear_first(*asked: Any) -> Any:
        models = [accounts.world.registry.find(name) for name in (dear, cheap)]
        return both(*asked)._replace(models=models)

    monkeypatch.setattr(accounts.world.engine.routing, "generate", dear_first)
    result = await accounts.world.generate()
    assert result.model_used == cheap
    assert [report.outcome for report in result.attempts] == ["spend_limit_exceeded", "success"]
    assert result.cost_usd is msgspec.UNSET


@pytest.mark.parametrize(
    ("kind", "charged"),
    [
        ("rate_limited", 0),
        ("unauthorized", 0),
        ("timeout", RESERVED),
        ("content_filtered", RESERVED),
        ("stream_interrupted", RESERVED),
    ],
)
async def test_a_failure_without_an_answer_is_charged_where_it_may_have_cost_something(
    accounts: Accounts, kind: str, charged: float
) -> None:
    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        raise CarError(kind, "no")
        yield USAGE

    accounts.world.backend.play = play
    await accounts.fail(accounts.model("one", REMOTE), recovery="none")
    total = await accounts.total()
    assert (total.used_usd, total.reserved_usd) == (charged, 0)


async def test_an_answer_whose_tokens_nobody_told_is_charged_as_it_was_reserved(
    accounts: Accounts, play: Any
) -> None:
    accounts.world.backend.play = play(TextDelta(text="hi"), UsageEvent(prompt_tokens=1))
    result = await accounts.ask(accounts.model("one", REMOTE))
    assert result.cost_usd is None  # the charge is no more than a guess
    assert (await accounts.total()).used_usd == RESERVED


async def test_a_cancelled_stream_is_charged_as_it_was_reserved(accounts: Accounts) -> None:
    begun = asyncio.Event()

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="hi")
        begun.set()
        await asyncio.Event().wait()

    accounts.world.backend.play = play
    task = asyncio.ensure_future(accounts.ask(accounts.model("one", REMOTE)))
    await begun.wait()
    assert (await accounts.total()).reserved_usd == RESERVED
    task.cancel()
    with pytest.raises(CarError, match="cancelled"):
        await task
    total = await accounts.total()
    assert (total.used_usd, total.reserved_usd) == (RESERVED, 0)


async def test_a_request_costs_what_all_its_attempts_cost(accounts: Accounts) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        yield TextDelta(text="one two three, and so on to the very end of it. ")
        yield USAGE
        if call.attempt == 1:
            yield Stop(reason="end_turn")
            raise CarError("provider_error", "after all was said")

    accounts.world.backend.play = play
    accounts.world.backend.continues = True
    model = accounts.model("one", REMOTE)
    result = await accounts.ask(model)
    assert result.cost_usd is None  # the first attempt failed, whatever it has cost
    assert (await accounts.total()).used_usd == RESERVED

    async def fails_first(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        if call.attempt == 1:
            raise CarError("rate_limited", "later")
        yield USAGE

    accounts.world.backend.play = fails_first
    assert (await accounts.ask(model)).cost_usd == 0.0006


async def test_attempts_share_the_limit_of_their_request(accounts: Accounts) -> None:
    async def play(call: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        await asyncio.sleep(0)
        raise CarError("timeout", "too slow")
        yield USAGE

    accounts.world.backend.play = play
    await accounts.budget.set_limits(SpendLimits(max_usd_per_call=2.5 * RESERVED))
    error = await accounts.fail(accounts.model("one", REMOTE))
    assert len(accounts.world.backend.calls) == 2
    assert (error.kind, error.extra["left_usd"]) == ("spend_limit_exceeded", 0.0000525)


async def test_a_reservation_stands_as_long_as_its_request_may_take(
    accounts: Accounts, tmp_path: Path
) -> None:
    ends: list[datetime] = []

    async def play(_: GenerateCall) -> AsyncGenerator[StreamEvent, None]:
        with contextlib.closing(sqlite3.connect(tmp_path / "car.db")) as database:
            ((stamp,),) = database.execute("SELECT expires_at FROM spend_reserved").fetchall()
        ends.append(datetime.fromtimestamp(stamp, UTC))
        yield USAGE

    accounts.world.backend.play = play
    await accounts.ask(accounts.model("one", REMOTE), timeout_ms=3_600_000)
    assert ends == [datetime(2026, 1, 30, 1, 15, tzinfo=UTC)]


async def test_embeddings_have_a_price_too(accounts: Accounts) -> None:
    model = accounts.model("one", REMOTE, Cost(input_per_mtok_usd=1000))
    params = msgspec.convert({"texts": ["abcd"] * 3, "model": model}, EmbedParams)
    await accounts.world.engine.embed(params, Origin(1, "embed", b"{}"))
    assert (await accounts.total()).used_usd == 0.003
    await accounts.budget.set_limits(SpendLimits(max_usd_per_day=0.005))
    with pytest.raises(CarError, match="spend limit exceeded"):
        await accounts.world.engine.embed(params, Origin(1, "embed", b"{}"))


async def test_a_database_that_cannot_be_written_refuses_what_costs_money(
    accounts: Accounts, tmp_path: Path, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken: Callable[..., Any] = lambda *_: (_ for _ in ()).throw(CarError("io_error", "full"))  # noqa: E731 - a double
    accounts.world.backend.play = play(*ANSWER)
    model = accounts.model("one", REMOTE)
    with monkeypatch.context() as patched:
        patched.setattr(SpendStore, "reserve", broken)
        assert (await accounts.fail(model)).kind == "io_error"
    with monkeypatch.context() as patched:
        patched.setattr(SpendStore, "settle", broken)
        assert (await accounts.ask(model)).cost_usd == 0.0006
    assert (await accounts.total()).reserved_usd == RESERVED  # until it expires


async def test_the_log_has_a_reservation_before_the_model_is_asked_and_the_charge_before_the_answer(
    accounts: Accounts, play: Any
) -> None:
    world = accounts.world
    world.backend.play = play(*ANSWER)
    model = accounts.model("one", REMOTE)
    await accounts.ask(model)

    assert world.backend.story_at_call == ["request", "route", "attempt", "spend_reserved"]
    assert "spend_settled" in world.listener.story_at_end
    usd = {e.type: e.data for e in world.sink.entries if e.type.startswith("spend_")}
    assert usd == {
        "spend_reserved": {"model": model, "usd": RESERVED},
        "spend_settled": {"model": model, "charged_usd": 0.0006, "cost_usd": 0.0006},
    }


async def test_what_the_log_does_not_get_is_not_reserved(
    accounts: Accounts, play: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = accounts.world
    world.backend.play = play(*ANSWER)
    commit = world.sink.commit

    async def refuse(*entries: Any) -> None:
        if "spend_reserved" in world.sink.types:
            raise CarError("io_error", "full")
        await commit(*entries)

    monkeypatch.setattr(world.sink, "commit", refuse)
    assert (await accounts.fail(accounts.model("one", REMOTE))).kind == "io_error"
    assert world.backend.calls == []
    assert (await accounts.total()).reserved_usd == 0


async def test_what_has_no_price_is_not_in_the_log_either(accounts: Accounts, play: Any) -> None:
    accounts.world.backend.play = play(*ANSWER)
    await accounts.ask(accounts.model("one", REMOTE, cost=None))
    assert not [e for e in accounts.world.sink.entries if e.type.startswith("spend_")]
