"""A process that stands in for itself: what it recorded is what it answers later."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from car_rpc.config import CassetteMode, CassetteSettings
from car_rpc.errors import CarError
from car_rpc.eventlog.shapes import KNOWN
from car_rpc.host import deck as deck_module
from car_rpc.host.deck import Deck
from car_rpc.host.dispatch import Dispatcher
from car_rpc.host.double import LEFT_OUT, RUNS_MODELS, Double
from car_rpc.host.system import RandomIds, now
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock
from car_rpc.wire.methods import METHODS
from tests.host.conftest import MODELS, SO_FAR, App


class Clock(FakeClock):
    """A fake clock; who sleeps until a time or later is held up."""

    def __init__(self) -> None:
        super().__init__()
        self.held_at_ms = float("inf")
        self.holds = asyncio.Event()

    async def sleep_ms(self, ms: float) -> None:
        if self.now_ms() + ms >= self.held_at_ms:
            self.holds.set()
            await asyncio.Event().wait()
        await super().sleep_ms(ms)


class DoubleApp(App):
    """A session with a cassette."""

    def __init__(
        self, registry: Registry, folder: Path, mode: CassetteMode, *, is_timed: bool, state: Path
    ) -> None:
        super().__init__(registry, state)
        self.folder = folder
        settings = CassetteSettings(folder / "c.jsonl", mode)
        self.deck = Deck(settings, "ses_1", KNOWN, now, RandomIds())
        self.clock = Clock()
        self.kept: bool | None = None
        self._is_timed = is_timed
        self.mode = mode
        self._runs = settings.records

    async def load(self) -> Any:
        inner = Dispatcher(self.services) if self._runs else None
        return Double(self.deck, inner, self.clock, is_timed=self._is_timed)


Start = Callable[..., Any]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    """Starts a session in a mode; at its end the cassette is written."""

    @asynccontextmanager
    async def start(mode: CassetteMode, *, is_timed: bool = False) -> AsyncIterator[DoubleApp]:
        state = tmp_path / RandomIds().new("state_")
        state.mkdir()
        registry = Registry(MODELS, ModelStore(state / "car.db"), state)
        app = DoubleApp(registry, tmp_path, mode, is_timed=is_timed, state=state)
        app.loaded.set()
        await app.call("init", "initialize", protocol_version=1)
        app.messages.clear()
        yield app
        app.session.cancel_all()
        await app.session.answered(5)
        app.kept = app.deck.eject()
        registry.close()

    return start


def lines(tmp_path: Path) -> list[Any]:
    return [json.loads(line) for line in (tmp_path / "c.jsonl").read_text().splitlines()]


async def run_as_app(app: DoubleApp, text: str) -> None:
    """Answer the next `runner.run`."""
    run = await app.method("runner.run")
    call_id = run["params"]["call_id"]
    for part in text:
        app.notify("runner.event", call_id=call_id, event={"type": "text_delta", "text": part})
    app.send({"id": run["id"], "result": {"stop_reason": "end_turn"}})


def model(model_id: str = "test/new:a") -> dict[str, Any]:
    return {
        "id": model_id,
        "source": {"type": "fake", "script": [{"echo": True}]},
        "capabilities": ["generate"],
    }


async def everything(app: DoubleApp) -> None:
    """One request of each kind, one after the other."""
    await app.call(1, "models.register", model=model())
    await app.call(2, "models.list")
    await app.call(3, "generate", prompt="Hello there", model="echo", stream=True, client_ref="x")
    await app.call(4, "generate", prompt="Hello", model="test/new:a")
    await app.call(5, "generate", prompt="Hello", model="nobody", stream=True)
    await app.call(6, "embed", texts="no list")
    await app.call(7, "runner.register")
    app.request(8, "generate", prompt="x", model="test/app:a", stream=True)
    if app.mode == "record":
        await run_as_app(app, "abc")
    await app.answer(8)
    app.request(9, "generate", prompt="x", model="stall", stream=True)
    if app.mode == "record":
        await app.until(
            lambda m: m.get("params", {}).get("event") == {"type": "text_delta", "text": "so far"}
        )
        app.notify("$/cancelRequest", id=9)
    await app.answer(9)
    await app.call(10, "routing.get_config")
    await app.call(11, "no.such.method")


def transcript(app: DoubleApp) -> list[Any]:
    """What the app got, but for what it was asked to run."""
    return [m for m in app.read() if m.get("method") != "runner.run"]


async def test_a_replay_sends_what_the_recording_sent(start: Start) -> None:
    async with start("record") as first:
        await everything(first)
    for mode in ("replay", "strict", "auto"):
        async with start(mode) as again:
            await everything(again)
        assert transcript(again) == transcript(first), mode
        assert again.kept
        if mode != "auto":
            assert again.sink.entries == []


async def test_a_replay_runs_nothing_and_asks_nobody(start: Start) -> None:
    async with start("record") as app:
        await app.call(1, "runner.register")
        app.request(2, "generate", prompt="x", model="test/app:a", stream=True)
        await run_as_app(app, "abc")
        await app.answer(2)
    async with start("replay") as app:
        await app.call(1, "runner.register")
        answer = await app.call(2, "generate", prompt="x", model="test/app:a", stream=True)
        assert answer["result"]["text"] == "abc"
        assert app.runner.status().registered is False
        assert not [m for m in app.read() if m.get("method") == "runner.run"]
        # An app that sends its events all the same is told that nobody listens.
        event = {"type": "text_delta", "text": "late"}
        told = await app.call(3, "runner.event", call_id="call_1", event=event)
        assert told["result"] == {"emitted": False, "closed": True}
        app.notify("runner.event", call_id="call_1", event=event)
        assert "result" in await app.call(4, "ping")


async def test_what_belongs_to_a_request_is_its_own_in_a_replay(start: Start) -> None:
    """Its id, its reference and its token; the answer is the recorded one."""
    asked = {"prompt": "Hello", "model": "echo", "stream": True}
    async with start("record") as app:
        await app.call(1, "generate", **asked, client_ref="one", progress_token="t1")
    assert "one" not in (json.dumps(lines(app.folder)))
    async with start("replay") as app:
        for request_id, own in (("a", {"client_ref": "two"}), ("b", {"progress_token": 7})):
            result = (await app.call(request_id, "generate", **asked, **own))["result"]
            assert result.get("client_ref") == own.get("client_ref")
            events = app.events(request_id)
            assert [each["seq"] for each in events] == [*range(len(events))]
            assert {each.get("client_ref") for each in events} == {own.get("client_ref")}
        progress = [m["params"] for m in app.read() if m.get("method") == "$/progress"]
        assert progress == [
            {"token": 7, "value": {"kind": "begin"}},
            {"token": 7, "value": {"kind": "end"}},
        ]


async def test_time_passes_only_where_that_is_asked_for(start: Start) -> None:
    asked = {"prompt": "x", "model": "stall", "stream": True}
    async with start("record") as app:
        app.request(1, "generate", **asked)
        await app.until(lambda m: m.get("params", {}).get("event") == SO_FAR)
        app.clock.advance(1500)
        app.notify("$/cancelRequest", id=1)
        await app.answer(1)
    async with start("replay") as app:
        await app.call(1, "generate", **asked)
        assert app.clock.now_ms() == 0
    async with start("replay", is_timed=True) as app:
        await app.call(1, "generate", **asked)
        assert app.clock.now_ms() == 1500


async def long_answer(start: Start) -> dict[str, Any]:
    asked = {"prompt": "x", "model": "test/app:a", "stream": True}
    async with start("record") as app:
        await app.call(1, "runner.register")
        app.request(2, "generate", **asked)
        run = await app.method("runner.run")
        for number in range(3):
            app.clock.advance(100)
            event = {"type": "text_delta", "text": f"{number} "}
            await app.call(3, "runner.event", call_id=run["params"]["call_id"], event=event)
            await app.until(lambda m, e=event: m.get("params", {}).get("event") == e)
        app.send({"id": run["id"], "result": {}})
        await app.answer(2)
    return asked


async def test_a_cancel_ends_a_replay_with_what_it_has_said(start: Start) -> None:
    asked = await long_answer(start)
    async with start("replay", is_timed=True) as app:
        app.clock.held_at_ms = 300
        app.request("c", "generate", **asked)
        await app.clock.holds.wait()
        app.notify("$/cancelRequest", id="c")
        error = (await app.answer("c"))["error"]
        assert (error["code"], error["data"]["partial"]["text"]) == (-32800, "0 1 ")
        assert app.events("c")[-1]["event"]["type"] == "error"
        assert app.events("c")[-2]["event"] == {"type": "text_delta", "text": "1 "}


async def test_a_cancel_that_comes_too_late_changes_nothing(start: Start) -> None:
    asked = await long_answer(start)
    async with start("replay") as app:
        app.request("c", "generate", **asked, progress_token=1)
        await app.until(lambda m: m.get("params", {}).get("event", {}).get("type") == "done")
        app.notify("$/cancelRequest", id="c")
        assert (await app.answer("c"))["result"]["text"] == "0 1 2 "


async def test_a_subscription_in_a_replay_is_silent_until_it_is_cancelled(start: Start) -> None:
    async with start("record") as app:
        await app.call(1, "models.list")
    async with start("replay") as app:
        app.request("s", "eventlog.subscribe", from_seq=1)
        await app.call(1, "models.list")
        app.notify("$/cancelRequest", id="s")
        assert (await app.answer("s"))["error"]["data"]["kind"] == "cancelled"
        assert not [m for m in app.read() if m.get("method") == "eventlog.event"]
        error = await app.failure(2, "replay.run", trace_id="tr_1", mode="recorded")
        assert error["data"]["kind"] == "not_found"


async def test_a_request_that_is_not_there_is_an_error_that_says_how_it_differs(
    start: Start,
) -> None:
    async with start("record") as app:
        await app.call(1, "generate", prompt="Hello", model="echo", stream=True)
    async with start("replay") as app:
        error = await app.failure(1, "generate", prompt="Hullo", model="echo", stream=True)
        assert error["data"]["kind"] == "not_found"
        assert error["data"]["diff"] == [{"path": "$.prompt", "recorded": "Hello", "got": "Hullo"}]
        (event,) = app.events(1)  # a stream that was asked for ends, too
        assert event["event"]["kind"] == "not_found"
        assert app.sink.entries == []
    assert app.kept


@pytest.mark.parametrize(
    ("prompts", "kept"), [("ab", True), ("a", False), ("ba", False), ("abb", False), ("abc", False)]
)
async def test_strict_wants_the_recorded_requests_and_no_others(
    start: Start, prompts: str, *, kept: bool
) -> None:
    async with start("record") as app:
        for prompt in "ab":
            await app.call(prompt, "generate", prompt=prompt, model="echo")
    async with start("strict") as app:
        for number, prompt in enumerate(prompts):
            await app.call(number, "generate", prompt=prompt, model="echo")
    assert app.kept is kept


async def test_auto_runs_what_is_new_on_the_state_that_was_replayed(start: Start) -> None:
    async with start("record") as app:
        await app.call(1, "models.register", model=model())
        await app.call(2, "generate", prompt="old", model="test/new:a")
    before = lines(app.folder)
    async with start("auto") as app:
        await app.call(1, "models.register", model=model())
        await app.call(2, "generate", prompt="old", model="test/new:a")
        answer = await app.call(3, "generate", prompt="new", model="test/new:a")
        assert answer["result"]["text"] == "new"
        assert [entry.type for entry in app.sink.entries].count("request") == 2
    assert lines(app.folder)[: len(before)] == before
    async with start("strict") as app:
        await app.call(1, "models.register", model=model())
        for prompt in ("old", "new"):
            answer = await app.call(prompt, "generate", prompt=prompt, model="test/new:a")
            assert answer["result"]["text"] == prompt
    assert app.kept


async def test_auto_without_anything_new_leaves_the_file_alone(start: Start) -> None:
    async with start("record") as app:
        await app.call(1, "models.list")
    path = app.folder / "c.jsonl"
    written = path.stat().st_mtime_ns
    async with start("auto") as app:
        await app.call(1, "models.list")
    assert path.stat().st_mtime_ns == written


async def test_equal_requests_of_one_recording_are_all_run(start: Start) -> None:
    """What a process recorded itself it does not answer with: it shows what changed meanwhile."""
    async with start("auto") as app:
        await app.call(1, "models.get", model="test/new:a")
        await app.call(2, "models.register", model=model())
        await app.call(3, "models.get", model="test/new:a")
    async with start("replay") as app:
        assert "error" in await app.call(1, "models.get", model="test/new:a")
        for number in (2, 3):
            assert "result" in await app.call(number, "models.get", model="test/new:a")


async def test_a_new_recording_shows_only_what_changed(start: Start) -> None:
    async def record(text: str) -> list[Any]:
        async with start("record") as app:
            await app.call(1, "models.list")
            await app.call(2, "generate", prompt=text, model="echo", stream=True)
            await app.call(3, "embed", texts="no list")
        return lines(app.folder)

    first, same, other = await record("a"), await record("a"), await record("b")
    assert same == first
    assert [each for each in other if each not in first] == other[3:6]


async def test_secrets_are_not_recorded_wherever_they_are(start: Start) -> None:
    key, header = "sk-" + "a1B2" * 10, "s3cr3t-of-the-team"
    source = {"type": "openai_compat", "endpoint": "http://x", "model": "m"}
    cloud = {**model("test/cloud:a"), "source": {**source, "headers": {"x-team": header}}}
    asked = {"prompt": f"my key is {key} ", "model": "echo", "stream": True, "privacy": "full"}
    async with start("record") as app:
        await app.call(1, "models.register", model=cloud)
        answer = await app.call(2, "generate", **asked)
        assert key in answer["result"]["text"]
    text = (app.folder / "c.jsonl").read_text()
    assert key not in text
    assert header not in text
    assert (app.folder / "c.jsonl").stat().st_mode & 0o777 == 0o600
    async with start("replay") as app:
        assert "result" in await app.call(1, "models.register", model=cloud)
        text = (await app.call(2, "generate", **asked))["result"]["text"]
        assert text == "".join(each["event"].get("text", "") for each in app.events(2)[:-1])
        assert "[redacted:" in text


async def test_a_request_is_recorded_whatever_its_privacy(start: Start) -> None:
    asked = {"prompt": "Hello", "model": "echo"}
    async with start("record") as app:
        await app.call(1, "generate", **asked, privacy="metadata")
    async with start("replay") as app:
        assert (await app.call(1, "generate", **asked))["result"]["text"] == "Hello"


async def test_without_a_cassette_a_replay_says_how_to_make_one(tmp_path: Path) -> None:
    settings = CassetteSettings(tmp_path / "none.jsonl", "replay")
    with pytest.raises(CarError, match="--cassette-mode record") as caught:
        Deck(settings, "ses_1", KNOWN, now, RandomIds())
    assert caught.value.kind == "io_error"


@pytest.mark.parametrize("mode", ["replay", "strict", "auto"])
async def test_a_file_that_is_no_cassette_is_an_error(tmp_path: Path, mode: CassetteMode) -> None:
    (tmp_path / "c.jsonl").write_text("no cassette\n")
    with pytest.raises(CarError, match="line 1 is no event"):
        Deck(CassetteSettings(tmp_path / "c.jsonl", mode), "ses_1", KNOWN, now, RandomIds())


async def test_a_recording_replaces_whatever_was_there(start: Start, tmp_path: Path) -> None:
    (tmp_path / "c.jsonl").write_text("no cassette\n")
    async with start("record") as app:
        await app.call(1, "models.list")
    assert app.kept
    assert len(lines(tmp_path)) == 3


@pytest.mark.parametrize("mode", ["record", "auto"])
async def test_where_nothing_can_be_written_that_is_said_at_once(
    tmp_path: Path, mode: CassetteMode
) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "c.jsonl"):
        with pytest.raises(CarError) as caught:
            Deck(CassetteSettings(path, mode), "ses_1", KNOWN, now, RandomIds())
        assert caught.value.kind == "io_error"


async def test_a_cassette_that_cannot_be_written_is_not_kept(start: Start) -> None:
    async with start("record") as app:
        await app.call(1, "models.list")
        (app.folder / "c.jsonl").mkdir()
    assert app.kept is False
    assert [each.name for each in app.folder.iterdir() if each.name.startswith(".")] == []


async def test_what_cannot_be_recorded_is_answered_all_the_same(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a defect")

    async with start("record") as app:
        monkeypatch.setattr(deck_module, "interaction", fail)
        for model_id in ("echo", "nobody"):
            assert await app.call(model_id, "generate", prompt="x", model=model_id)
        assert "result" in await app.call(3, "models.list")
    assert len(lines(app.folder)) == 1


async def test_beyond_its_bound_nothing_is_recorded(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deck_module, "MAX_RECORDED_BYTES", 3000)
    async with start("record") as app:
        await app.call(1, "generate", prompt="short", model="echo")
        answer = await app.call(2, "generate", prompt="x" * 5000, model="echo")
        assert answer["result"]["text"] == "x" * 5000
        await app.call(3, "generate", prompt="short", model="echo")
    assert len(lines(app.folder)) == 4


def test_every_method_that_is_logged_runs_models_or_changes_their_state() -> None:
    """Those that change state are also done, where a recorded answer is followed by real work."""
    logged = {name for name, method in METHODS.items() if method.logged}
    assert logged >= RUNS_MODELS
    assert {
        name for name in METHODS if name.startswith(("models.register", "runner.register"))
    } <= (logged - RUNS_MODELS)
    results = {name: METHODS[name].result.__struct_fields__ for name in logged}
    runs = {name for name, fields in results.items() if "model_used" in fields}
    assert runs == RUNS_MODELS
    assert set(METHODS) >= LEFT_OUT
