"""Real processes with a cassette: what one recorded, another answers, and nothing runs."""

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_rpc.client import CarClient, RemoteError
from tests.process.conftest import ROOT, WAIT_S, Core, Framing, StartCore

pytestmark = pytest.mark.process

FRAMINGS: list[Framing] = ["ndjson", "lsp"]


@pytest.fixture
def cassette(tmp_path: Path) -> Path:
    return tmp_path / "cassettes" / "c.jsonl"


def with_cassette(path: Path, mode: str, *more: str) -> list[str]:
    return ["--cassette", str(path), "--cassette-mode", mode, *more]


def leave(core: Core) -> int:
    core.call("shutdown")
    core.notify("exit", {})
    return core.wait()


def answer_run(core: Core, *parts: str) -> None:
    """Answer the next `runner.run` as an app would."""
    run = core.wait_for(lambda m: m.get("method") == "runner.run")
    for part in parts:
        event = {"type": "text_delta", "text": part}
        core.notify("runner.event", {"call_id": run["params"]["call_id"], "event": event})
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"stop_reason": "end_turn"}})


def an_app(core: Core, *, runs: bool) -> list[Any]:
    """What an app does in its test, and what it gets but for what differs by its nature."""
    core.initialize()
    begin = len(core.messages)
    core.register("acme/large:cloud", {"type": "delegated", "hint": "large"})
    core.fake(
        "t/flaky:1",
        {"emit": {"type": "text_delta", "text": "so far "}},
        {"fail": {"kind": "unauthorized"}},
    )
    core.call("runner.register", {})
    answered = core.generate("acme/large:cloud", "Tell me a story.", client_ref="ui-1")
    if runs:
        answer_run(core, "Once ", "upon ", "a time.")
    core.response(answered)
    core.response(core.generate("t/flaky:1"))
    assert core.fail("embed", {"texts": ["a"], "model": "t/flaky:1"})
    assert core.call("models.get", {"model": "acme/large:cloud"})
    return [m for m in core.messages[begin:] if m.get("method") != "runner.run"]


@pytest.mark.parametrize("framing", FRAMINGS)
@pytest.mark.parametrize("mode", ["replay", "strict", "auto"])
def test_another_process_answers_what_one_has_recorded(
    start_core: StartCore, cassette: Path, mode: str, framing: Framing
) -> None:
    first = start_core(*with_cassette(cassette, "record"), framing=framing)
    told = an_app(first, runs=True)
    assert leave(first) == 0

    again = start_core(*with_cassette(cassette, mode), framing=framing)
    assert an_app(again, runs=False) == told
    assert not [m for m in again.messages if m.get("method") == "runner.run"]
    assert leave(again) == 0
    # Where nothing runs nobody's state is touched.
    assert again.state_dir.exists() is (mode == "auto")


def test_a_stream_that_is_replayed_in_its_time_can_be_cancelled(
    start_core: StartCore, cassette: Path
) -> None:
    core = start_core(*with_cassette(cassette, "record"))
    core.initialize()
    first = {"emit": {"type": "text_delta", "text": "so far"}}
    core.fake("t/slow:1", first, {"sleep_ms": 60_000}, {"echo": True})
    request_id = core.generate("t/slow:1")
    core.first_event(request_id, "text_delta")
    core.cancel(request_id)
    core.response(request_id)
    assert leave(core) == 0
    # By hand: the answer comes an hour later.
    lines = cassette.read_text().splitlines()
    end = json.loads(lines[-1])
    end["ts"] = end["ts"].replace("2", "3", 1)
    cassette.write_text("\n".join([*lines[:-1], json.dumps(end)]) + "\n")

    core = start_core(*with_cassette(cassette, "replay", "--cassette-speed", "timed"))
    core.initialize()
    request_id = core.generate("t/slow:1")
    core.first_event(request_id, "text_delta")
    core.ping()
    assert core.responses(request_id) == 0
    core.cancel(request_id)
    error = core.response(request_id)["error"]
    assert (error["code"], error["data"]["partial"]["text"]) == (-32800, "so far")
    assert core.stream(request_id)[-1]["event"]["kind"] == "cancelled"


def test_a_request_that_differs_is_an_error_with_the_difference(
    start_core: StartCore, cassette: Path
) -> None:
    record(start_core, cassette, "Hello")
    core = start_core(*with_cassette(cassette, "replay"))
    core.initialize()
    error = core.fail("generate", {"prompt": "Hullo", "model": "t/echo:1"})
    assert (error["code"], error["data"]["kind"]) == (1027, "not_found")
    assert error["data"]["diff"] == [{"path": "$.prompt", "recorded": "Hello", "got": "Hullo"}]
    assert leave(core) == 0


def record(start_core: StartCore, cassette: Path, *prompts: str) -> Core:
    core = start_core(*with_cassette(cassette, "record"))
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    for prompt in prompts:
        core.call("generate", {"prompt": prompt, "model": "t/echo:1"})
    assert leave(core) == 0
    return core


def test_strict_ends_with_an_exit_code_of_its_own_when_not_all_was_asked(
    start_core: StartCore, cassette: Path
) -> None:
    record(start_core, cassette, "one", "two")
    core = start_core(*with_cassette(cassette, "strict"))
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    core.call("generate", {"prompt": "one", "model": "t/echo:1"})
    assert leave(core) == 5
    assert "these were not made: 3 `generate`" in core.stderr()


def test_a_recording_is_written_however_the_process_ends_but_by_a_kill(
    start_core: StartCore, cassette: Path
) -> None:
    def end(core: Core, how: str) -> None:
        if how == "end of input":
            core.close_stdin()
        else:
            core.process.send_signal(getattr(signal, how))
        core.wait()

    for how in ("end of input", "SIGTERM", "SIGKILL"):
        before = cassette.read_bytes() if cassette.exists() else None
        core = start_core(*with_cassette(cassette, "record"))
        core.initialize()
        core.fake(f"t/{how.replace(' ', '-').lower()}:1", {"echo": True})
        end(core, how)
        assert (cassette.read_bytes() == before) is (how == "SIGKILL"), how
    assert [each.name for each in cassette.parent.iterdir()] == ["c.jsonl"]


@pytest.fixture
def without_cassette(start_core: StartCore, cassette: Path) -> Iterator[Core]:
    core = start_core(*with_cassette(cassette, "replay"))
    core.initialize()
    yield core
    assert leave(core) == 0


def test_without_a_cassette_every_request_says_how_to_make_one(without_cassette: Core) -> None:
    error = without_cassette.fail("models.list")
    assert error["data"]["kind"] == "io_error"
    assert "record it with --cassette-mode record" in error["message"]


def test_an_export_of_the_log_can_be_replayed(start_core: StartCore, cassette: Path) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    request_id = core.generate("t/echo:1", "one two")
    result = core.response(request_id)["result"]
    cassette.parent.mkdir()
    core.call("eventlog.export", {"format": "jsonl", "path": str(cassette)})
    again = start_core(*with_cassette(cassette, "replay"))
    again.initialize()
    replayed = again.generate("t/echo:1", "one two")
    assert again.response(replayed)["result"] == result
    assert [m["event"] for m in again.stream(replayed)] == [
        m["event"] for m in core.stream(request_id)
    ]


def test_a_cassette_is_imported_into_a_log_and_shown_there(
    start_core: StartCore, cassette: Path, tmp_path: Path
) -> None:
    record(start_core, cassette, "one two")
    command = [sys.executable, "-m", "car_rpc", "log"]
    state = ["--state-dir", str(tmp_path / "log")]
    for more in (["import", str(cassette)], ["verify"]):
        subprocess.run([*command, *more, *state], check=True, cwd=ROOT, timeout=WAIT_S)
    trace_id = json.loads(cassette.read_text().splitlines()[-1])["trace_id"]
    core = start_core(state_dir=tmp_path / "log")
    core.initialize()
    result = core.call("replay.run", {"trace_id": trace_id, "mode": "recorded"})["result"]
    assert result["text"] == "one two"


def test_the_doubled_engines_are_those_of_the_recording(
    start_core: StartCore, cassette: Path
) -> None:
    """What `initialize` says of the machine is part of the double."""
    record(start_core, cassette)
    text = cassette.read_text()
    cassette.write_text(text.replace('"mlx":{"available":true}', '"mlx":{"available":false}'))
    core = start_core(*with_cassette(cassette, "replay"))
    assert core.initialize()["capabilities"]["backends"]["mlx"] == {"available": False}


async def test_the_python_client_is_served_like_by_any_process(cassette: Path) -> None:
    async def run(mode: str, state_dir: Path) -> str:
        arguments = [*with_cassette(cassette, mode), "--state-dir", str(state_dir)]
        with anyio.fail_after(WAIT_S):
            async with CarClient.start(arguments=arguments) as car:
                source = {"type": "fake", "script": [{"echo": True}]}
                model = {"id": "t/echo:1", "source": source, "capabilities": ["generate"]}
                await car.register_model(model)
                async with car.stream(model="t/echo:1", prompt="Hello there") as stream:
                    assert [each async for each in stream]
                    result = await stream.result()
                with pytest.raises(RemoteError):
                    await car.generate(model="nobody", prompt="x")
            assert car.exit_code == 0
            return str(result)

    cassette.parent.mkdir()
    assert await run("record", cassette.parent / "s1") == await run(
        "strict", cassette.parent / "s2"
    )
    assert not (cassette.parent / "s2").exists()
