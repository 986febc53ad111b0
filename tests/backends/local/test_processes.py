"""Scripted models in real worker processes."""

import asyncio
import logging
import os
import signal
import sys
from contextlib import aclosing
from pathlib import Path
from typing import Any

import gguf
import msgspec
import numpy as np
import pytest

from car_rpc.backends.local import process
from car_rpc.backends.local.process import PAUSE_AT_EVENTS, WorkerProcess
from car_rpc.errors import CarError
from car_rpc.testing import MemorySink, scripted_call, scripted_model
from car_rpc.transport.os_layer import os_layer
from car_rpc.wire.events import Stop, TextDelta
from car_rpc.wire.models import DelegatedSource, LocalSource, ModelSchema
from car_rpc.wire.worker import Load, Loaded, Tokenize
from tests.backends.conftest import local

pytestmark = pytest.mark.process

TEXT = {"emit": {"type": "text_delta", "text": "x"}}
ECHO = scripted_model("a/echo:1", [{"echo": True}])
STALL = scripted_model("a/stall:1", [TEXT, {"stall": True}])
CRASH = scripted_model("a/crash:1", [TEXT, {"sleep_ms": 50}, {"crash": True}])


async def played(backend: Any, model: ModelSchema, **request: Any) -> list[Any]:
    async with (
        asyncio.timeout(30),
        aclosing(backend.generate(scripted_call(model, **request))) as events,
    ):
        return [event async for event in events]


async def failure(backend: Any, model: ModelSchema, **request: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        await played(backend, model, **request)
    return caught.value


def pids(sink: MemorySink) -> list[int]:
    return [entry.data["pid"] for entry in sink.entries if entry.type == "model_load"]


def exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def test_a_worker_answers_and_stays_for_the_next_request(workers: Any, sink: Any) -> None:
    for _ in range(2):
        assert await played(workers, ECHO, prompt="a") == [
            TextDelta(text="a"),
            Stop(reason="end_turn"),
        ]
    assert len(pids(sink)) == 1
    assert sink.entries[0].data["model"] == "a/echo:1"


async def test_requests_that_come_during_a_load_share_it_and_so_do_other_names(
    workers: Any, sink: Any
) -> None:
    other_name = msgspec.structs.replace(ECHO, id="a/other:1")
    answers = await asyncio.gather(
        *(played(workers, model, prompt="a") for model in (ECHO, other_name, ECHO))
    )
    assert answers == [answers[0]] * 3
    assert len(pids(sink)) == 1


async def test_who_gives_up_during_a_load_does_not_take_it_from_the_others(
    workers: Any, sink: Any
) -> None:
    impatient = asyncio.create_task(played(workers, ECHO))
    patient = asyncio.create_task(played(workers, ECHO))
    await asyncio.sleep(0)
    impatient.cancel()
    assert await patient
    await asyncio.wait([impatient])
    assert impatient.cancelled()
    assert len(pids(sink)) == 1


async def test_a_crash_fails_its_requests_and_the_next_one_gets_a_fresh_worker(
    workers: Any, sink: Any
) -> None:
    errors = await asyncio.gather(*(failure(workers, CRASH) for _ in range(2)))
    assert [error.kind for error in errors] == ["worker_crashed"] * 2
    assert "SIGKILL" in errors[0].message
    assert "the next request starts a fresh one" in errors[0].message
    assert (await failure(workers, CRASH)).kind == "worker_crashed"
    assert len(set(pids(sink))) == 2
    crashes = [entry for entry in sink.entries if entry.type == "worker_crash"]
    assert [entry.data["model"] for entry in crashes] == ["a/crash:1"] * 2


async def test_a_crash_does_not_touch_another_models_worker(workers: Any, sink: Any) -> None:
    await played(workers, ECHO)
    await failure(workers, CRASH)
    await played(workers, ECHO)
    assert len(pids(sink)) == 2


async def test_what_a_worker_prints_becomes_a_log_line(
    workers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    long = "y" * 20_000
    model = scripted_model("a/print:1", [{"print": f"stray\n{long}\n"}, {"echo": True}])
    with caplog.at_level(logging.DEBUG):
        assert len(await played(workers, model, prompt="a")) == 2
        await workers.close()
    lines = [r.getMessage() for r in caplog.records if r.name == "car_rpc.worker.a/print:1"]
    assert "stray" in lines
    assert sum(line.count("y") for line in lines if set(line) == {"y"}) == len(long), (
        "a long line comes in pieces"
    )


async def test_closing_a_stalled_stream_stops_it_and_keeps_the_worker(
    workers: Any, sink: Any
) -> None:
    for _ in range(2):
        async with asyncio.timeout(30):
            events = workers.generate(scripted_call(STALL))
            assert await anext(events) == TextDelta(text="x")
            await events.aclose()
    assert len(pids(sink)) == 1


async def test_a_failure_of_the_worker_is_the_failure_of_the_request(workers: Any) -> None:
    fail = {"fail": {"kind": "rate_limited", "message": "later", "retry_after_ms": 7}}
    error = await failure(workers, scripted_model("a/fail:1", [TEXT, fail]))
    assert (error.kind, error.extra) == ("rate_limited", {"retry_after_ms": 7})


async def test_an_overflow_says_what_helps_against_that_of_a_generation(workers: Any) -> None:
    fail = {"fail": {"kind": "context_overflow", "message": "too long"}}
    model = scripted_model("a/long:1", [TEXT, fail])
    assert (await failure(workers, model)).detail == "too long"
    (slot,) = workers._workers._slots.values()
    slot.starting.result()._loaded = Loaded(context_length=8, context_trained=16)
    assert "memory is short" in (await failure(workers, model)).detail


async def test_a_load_that_fails_fails_whoever_waits_and_is_tried_again(
    workers: Any, sink: Any
) -> None:
    broken = scripted_model("a/broken:1", [{}])
    errors = await asyncio.gather(*(failure(workers, broken) for _ in range(2)))
    assert [error.kind for error in errors] == ["model_load_failed"] * 2
    assert (await failure(workers, broken)).kind == "model_load_failed"
    assert sink.entries == []


async def test_a_model_that_did_not_load_is_left_out_until_it_is_registered_anew(
    workers: Any,
) -> None:
    broken = scripted_model("a/broken:1", [{}])
    assert workers.availability(broken).available
    error = await failure(workers, broken)
    assert workers.availability(broken) == (False, True, error.detail)
    mended = scripted_model("a/broken:1", [{"echo": True}])
    assert workers.availability(mended).available


async def test_a_model_that_loads_after_all_is_no_longer_left_out(workers: Any) -> None:
    # As when a library that its worker needs was installed meanwhile.
    workers._failures.note(ECHO, Load(), CarError("model_load_failed", "not yet"))
    assert not workers.availability(ECHO).available
    assert len(await played(workers, ECHO, prompt="a")) == 2
    assert workers.availability(ECHO).available


async def test_events_that_come_soon_after_others_are_passed_on_together(
    workers: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[int] = []
    tell = process._Call._tell

    def note(call: Any) -> None:
        told.append(len(call.events))
        tell(call)

    monkeypatch.setattr(process._Call, "_tell", note)
    monkeypatch.setattr(process, "EVENTS_WAIT_S", 3600)
    assert len(await played(workers, scripted_model("a/fast:1", [{**TEXT, "repeat": 50}]))) == 51
    assert len(told) == 1  # the first at once, the others with the answer


async def test_events_that_wait_for_others_do_not_wait_for_the_answer(workers: Any) -> None:
    twice = scripted_model("a/twice:1", [TEXT, TEXT, {"stall": True}])
    async with asyncio.timeout(30), aclosing(workers.generate(scripted_call(twice))) as events:
        assert [await anext(events), await anext(events)] == [TextDelta(text="x")] * 2


async def test_a_slow_reader_holds_its_stream_and_gets_all_of_it(
    workers: Any, caplog: pytest.LogCaptureFixture
) -> None:
    count = 20 * PAUSE_AT_EVENTS
    model = scripted_model("a/flood:1", [{**TEXT, "repeat": count}, {"print": "flood over\n"}])
    with caplog.at_level(logging.DEBUG):
        async with asyncio.timeout(40), aclosing(workers.generate(scripted_call(model))) as events:
            await anext(events)
            await played(workers, model)  # another reader of the same worker is not held up
            assert caplog.text.count("flood over") <= 1, "the worker went on without its reader"
            assert len([event async for event in events]) == count
        await workers.close()
    assert caplog.text.count("flood over") == 2


async def test_closing_ends_every_worker_and_the_requests_in_it(workers: Any, sink: Any) -> None:
    task = asyncio.create_task(failure(workers, STALL))
    await played(workers, ECHO)
    async with asyncio.timeout(30):
        while len(pids(sink)) < 2:  # noqa: ASYNC110 - the log has no event to wait for
            await asyncio.sleep(0.01)
        await workers.close()
        assert (await task).kind == "worker_crashed"
    assert not any(map(exists, pids(sink)))
    types = [entry.type for entry in sink.entries]
    assert types == ["model_load"] * 2 + ["model_unload"] * 2, "an end is no crash"


async def test_closing_during_a_load_ends_it(workers: Any, sink: Any) -> None:
    task = asyncio.create_task(played(workers, ECHO))
    await asyncio.sleep(0)
    await workers.close()
    await asyncio.wait([task])
    assert task.cancelled() or task.exception() is not None
    assert pids(sink) == []


async def test_a_scripted_worker_has_no_tokens_and_no_vectors(workers: Any) -> None:
    for work in (
        workers.tokenize(ECHO, "x"),
        workers.detokenize(ECHO, [1]),
        workers.embed(ECHO, ["x"]),
    ):
        with pytest.raises(CarError) as caught:
            await work
        assert caught.value.kind == "unsupported_mode"


async def test_what_is_refused_starts_no_worker(workers: Any, sink: Any) -> None:
    assert (await failure(workers, ECHO, overflow="truncate")).kind == "unsupported_mode"
    assert sink.entries == []


async def test_a_source_of_another_backend_is_a_defect(workers: Any) -> None:
    model = ModelSchema(id="a/b:c", source=DelegatedSource(), capabilities=["generate"])
    assert (await failure(workers, model)).kind == "internal"


async def test_a_library_that_is_not_installed_is_named(sink: Any) -> None:
    backend = local("llama_cpp", "no_such_library", sink)
    assert not backend.availability(ECHO).available
    error = await failure(backend, ECHO)
    assert error.kind == "model_load_failed"
    assert "no_such_library" in error.message


async def test_a_reranker_whose_file_has_no_head_is_refused_before_anything_starts(
    sink: Any, tmp_path: Path
) -> None:
    path = tmp_path / "headless.gguf"
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_tensor("token_embd.weight", np.zeros((2, 2), dtype=np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source = LocalSource(path=str(path), pooling="rank")
    model = ModelSchema(id="a/judge:1", source=source, capabilities=["rerank"])
    backend = local("llama_cpp", None, sink)
    with pytest.raises(CarError, match="has no head for ranking") as caught:
        await backend.rank(model, "q", ["d"], "i")
    assert (caught.value.kind, caught.value.data["model"]) == ("model_load_failed", "a/judge:1")
    assert sink.entries == []
    await backend.close()


@pytest.mark.parametrize("name", ["missing.gguf", "folder", "a\0b", "x" * 5000])
async def test_a_model_without_a_readable_file_is_not_available(
    workers: Any, tmp_path: Path, name: str
) -> None:
    (tmp_path / "folder").mkdir()
    source = LocalSource(path=str(tmp_path / name))
    model = ModelSchema(id="a/b:c", source=source, capabilities=["generate"])
    assert workers.availability(model)[:2] == (False, False)
    (tmp_path / "real.gguf").touch()
    real = msgspec.structs.replace(model, source=LocalSource(path=str(tmp_path / "real.gguf")))
    assert workers.availability(real)[:2] == (True, True)


@pytest.mark.parametrize("engine", ["llama_cpp", "mlx"])
def test_an_engine_for_language_models_does_not_offer_to_hear_or_speak(
    sink: Any, tmp_path: Path, engine: str
) -> None:
    (tmp_path / "real.gguf").touch()
    source = LocalSource(path=str(tmp_path / "real.gguf"))
    hears = ModelSchema(id="a/b:c", source=source, capabilities=["speech_to_text"])
    talks = msgspec.structs.replace(hears, capabilities=["generate", "speech_to_text"])
    backend = local(engine, None, sink)
    assert backend.availability(hears)[:2] == (False, True)
    assert backend.availability(talks)[:2] == (True, True)


async def test_a_model_whose_weights_are_not_here_says_what_to_download(workers: Any) -> None:
    source = LocalSource(hf_repo="a/b-GGUF", hf_filename="b.gguf")
    model = ModelSchema(id="a/b:c", source=source, capabilities=["generate"])
    assert workers.availability(model)[:2] == (False, False)
    error = await failure(workers, model)
    assert error.kind == "model_load_failed"
    assert "b.gguf of the hub's repository a/b-GGUF" in error.message


async def test_a_request_that_no_frame_holds_is_refused_and_the_worker_lives_on(
    workers: Any, sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await played(workers, ECHO, prompt="a")
    monkeypatch.setattr(process, "MAX_WORKER_FRAME_BYTES", 4000)
    error = await failure(workers, ECHO, prompt="x" * 4000)
    assert error.kind == "message_too_large"
    assert "4000 bytes" in error.message
    assert (await played(workers, ECHO, prompt="b"))[0] == TextDelta(text="b")
    assert len(pids(sink)) == 1


class Spared:
    """Lets processes live a little longer than they should."""

    def __init__(self) -> None:
        self.condemned: list[int] = []
        self._real = os_layer()

    def spawn_options(self) -> dict[str, Any]:
        return self._real.spawn_options()

    def lower_priority(self, pid: int) -> None:
        pass

    def kill_tree(self, pid: int) -> None:
        self.condemned.append(pid)

    def exists(self, pid: int) -> bool:
        return self._real.exists(pid)

    def memory_bytes(self, pid: int) -> int | None:
        return self._real.memory_bytes(pid)

    def execute(self) -> None:
        for pid in self.condemned:
            self._real.kill_tree(pid)


async def test_a_worker_that_is_being_killed_takes_no_more_requests(
    sink: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process, "CANCEL_TIMEOUT_S", 0.05)
    control = Spared()
    backend = local("fake", None, sink, control)
    try:
        async with asyncio.timeout(30):
            events = backend.generate(scripted_call(STALL))
            await anext(events)
            (slot,) = backend._workers._slots.values()
            hung = slot.starting.result()
            os.kill(hung.pid, signal.SIGSTOP)
            os.waitid(os.P_PID, hung.pid, os.WSTOPPED | os.WNOWAIT)  # noqa: ASYNC222 - it comes at once
            await events.aclose()
            assert control.condemned == [hung.pid]
            assert exists(hung.pid)
            again = backend.generate(scripted_call(STALL))
            assert await anext(again) == TextDelta(text="x")
            assert len(set(pids(sink))) == 2
            await again.aclose()
    finally:
        control.condemned += pids(sink)
        control.execute()
        await backend.close()
    await hung.stop()


#: Workers that do not behave.
CLOSES_ITS_OUTPUT = "import os, sys; sys.stdin.buffer.read(1); os.close(1); sys.stdin.read()"
SAYS_NONSENSE = "import os, sys; sys.stdin.buffer.read(1); os.write(1, b'x' * 9); sys.stdin.read()"


@pytest.mark.parametrize("script", [CLOSES_ITS_OUTPUT, SAYS_NONSENSE])
async def test_a_worker_that_speaks_no_more_but_lives_on_is_killed_and_its_requests_end(
    monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(process, "EXIT_TIMEOUT_S", 0.05)
    worker = await WorkerProcess.run([sys.executable, "-c", script], "odd", os_layer())
    try:
        async with asyncio.timeout(30):
            with pytest.raises(CarError) as caught:
                await worker.request(lambda frame_id: Tokenize(id=frame_id, text="x"))
            assert caught.value.kind == "worker_crashed"
            assert not worker.alive
            assert not exists(worker.pid)
            with pytest.raises(CarError):
                await worker.request(lambda frame_id: Tokenize(id=frame_id, text="x"))
    finally:
        await worker.stop()
