"""The worker of each engine for language models as a real process: loading, endings, tokens."""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeAlias

import msgspec
import pytest

from car_rpc.wire.events import Stop, TextDelta, UsageEvent
from car_rpc.wire.worker import (
    Cancel,
    Detokenize,
    Events,
    Failed,
    Load,
    Loaded,
    LoadProgress,
    Pause,
    Rendering,
    Reply,
    Resume,
    Tokenize,
    Transcribe,
)
from car_rpc.workers.runtime import EXIT_CORE_GONE, EXIT_HUNG, EXIT_NOT_LOADED
from tests.workers.conftest import DEMO_FOLDER, Kind, Worker
from tests.workers.test_calls import calls_of
from tests.workers.test_text import merged

pytestmark = pytest.mark.process

#: Starts a worker of an engine.
Start: TypeAlias = Callable[..., Worker]

#: Makes a model.
Make: TypeAlias = Callable[..., Path]

ENDLESS = (
    "{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}"
    "{% endfor %}{% endfor %}{% endfor %}"
)

#: A worker whose generating thread waits for what never comes, as for a GPU that hangs. Nobody
#: else is there to wake it, and it is looked at every few milliseconds.
WEDGED = """
import runpy, sys, threading
from importlib import import_module
from car_rpc.workers import watchdog

sys.argv = sys.argv[-2:]
watchdog.TICK_S, watchdog.HUNG_TICKS = 0.05, 3
module = import_module(f"car_rpc.workers.{sys.argv[1]}.generator")
module.Generator.step = lambda self: threading.Event().wait()
runpy.run_module("car_rpc.workers", run_name="__main__", alter_sys=False)
"""


@pytest.fixture(scope="module")
def lasting(kind: Kind, model: Make, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Worker]:
    worker = Worker(kind.engine, tmp_path_factory.mktemp("worker") / "stderr")
    worker.send(Load(path=str(model()), context_length=300))
    percents = []
    while isinstance(frame := worker.receive(), LoadProgress):
        percents.append(frame.percent)
    assert percents == sorted(set(percents))
    assert percents[-1] == 100.0
    assert isinstance(frame, Loaded)
    assert frame.context_length == 300
    assert frame.model_bytes > 0
    assert frame.engine.startswith(("llama.cpp ", "mlx-lm "))
    yield worker
    assert worker.close() == EXIT_CORE_GONE
    assert "Traceback" not in worker.stderr()
    worker.kill()


@pytest.fixture
def worker(lasting: Worker) -> Worker:
    """One process for all tests that do no harm."""
    return lasting


def test_a_path_where_nothing_is_is_explained_and_ends_the_worker(
    kind: Kind, start_worker: Start, tmp_path: Path
) -> None:
    worker = start_worker(kind.engine)
    path = tmp_path / "absent"
    answer = worker.load(path)
    assert isinstance(answer, Failed)
    assert (answer.id, answer.kind, answer.data) == (0, "io_error", {"path": str(path)})
    assert answer.detail.endswith("; check the path")
    assert worker.process.wait() == EXIT_NOT_LOADED


def test_an_answer_streams(worker: Worker) -> None:
    *deltas, usage, stop = worker.generate(max_tokens=8, ignore_eos=True)
    assert all(isinstance(event, TextDelta) for event in deltas)
    assert isinstance(usage, UsageEvent)
    assert usage.completion_tokens == 8
    assert stop == Stop(reason="max_tokens")


def test_a_running_answer_is_cancelled_and_its_slot_used_again(worker: Worker) -> None:
    expected = worker.generate("again", temperature=1.0, seed=1)
    worker.send(worker.request(max_tokens=None, ignore_eos=True), Cancel(id=1))
    assert worker.collect(1)[1] == Failed(id=1, kind="cancelled", detail="")
    assert worker.generate("again", temperature=1.0, seed=1) == expected


def test_a_paused_answer_goes_on_after_resume(worker: Worker) -> None:
    expected = worker.generate(max_tokens=100, ignore_eos=True)
    worker.send(worker.request(max_tokens=100, ignore_eos=True), Pause(id=1))
    worker.send(worker.request("other", 2))
    early, frame = [], worker.receive()
    while not (isinstance(frame, Reply) and frame.id == 2):
        if isinstance(frame, Events) and frame.id == 1:
            early += frame.events
        frame = worker.receive()
    assert not any(isinstance(event, Stop) for event in early)
    worker.send(Resume(id=1))
    late, answer = worker.collect(1)
    assert answer == Reply(id=1)
    assert early + late == expected


@pytest.mark.parametrize(
    "text", ["", "hello", " two  spaces\n", "é🙂👩\u200d👩\u200d👧", "<|im_start|>x", "a\0b"]
)
def test_tokens_turn_back_into_their_text(worker: Worker, text: str) -> None:
    tokens = worker.ask(Tokenize(id=1, text=text)).result
    assert worker.ask(Detokenize(id=2, tokens=tokens)).result == text


def test_control_tokens_are_single_tokens(worker: Worker) -> None:
    assert len(worker.ask(Tokenize(id=1, text="<|im_start|>")).result) == 1


@pytest.mark.parametrize("token", [10**6, -1, 2**63])
def test_a_token_beyond_the_vocabulary_is_refused(worker: Worker, token: int) -> None:
    answer = worker.ask(Detokenize(id=1, tokens=[0, token]))
    assert isinstance(answer, Failed)
    assert answer.kind == "tokenization_error"


def test_what_it_does_not_do_is_refused(worker: Worker) -> None:
    answer = worker.ask(Transcribe(id=1))
    assert isinstance(answer, Failed)
    assert answer.kind == "unsupported_mode"


def test_an_endless_template_leaves_the_worker_killable(
    kind: Kind, start_worker: Start, model: Make
) -> None:
    worker = start_worker(kind.engine)
    worker.load(model(ENDLESS))
    worker.send(worker.request())
    assert worker.receive() == Rendering(id=1)
    assert worker.close() == EXIT_CORE_GONE


def test_the_worker_ends_with_its_pipe_in_the_middle_of_an_answer(
    kind: Kind, start_worker: Start, model: Make
) -> None:
    worker = start_worker(kind.engine)
    worker.load(model())
    worker.send(worker.request(max_tokens=None, ignore_eos=True))
    worker.until(Events)
    assert worker.close() == EXIT_CORE_GONE


def test_a_worker_whose_generating_thread_hangs_ends(
    kind: Kind, start_worker: Start, model: Make
) -> None:
    worker = start_worker(kind.engine, through=[sys.executable, "-c", WEDGED])
    assert isinstance(worker.load(model()), Loaded)
    worker.send(worker.request())
    assert worker.process.wait() == EXIT_HUNG
    assert "the engine hangs" in worker.stderr()


def test_a_call_right_after_a_load_has_the_arguments_that_its_tool_declares(
    kind: Kind, start_worker: Start
) -> None:
    spelled = json.loads((DEMO_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    (marker,) = [each["id"] for each in spelled["added_tokens"] if each["content"] == "<tool_call>"]
    parameters = {
        "type": "object",
        "properties": {"zone": {"enum": ["QX-17", "ZV-23"]}},  # of which the model never heard
        "required": ["zone"],
        "additionalProperties": False,
    }
    tool = {"type": "function", "function": {"name": "zone", "parameters": parameters}}
    request = Worker.request(thinking="off", max_tokens=80, logit_bias={marker: 50.0})
    worker = start_worker(kind.engine)
    worker.send(
        Load(path=str(kind.demo)),
        msgspec.structs.replace(request, tools=[tool], parallel_tool_calls=False),
    )
    events, _ = worker.collect(1)
    ((name, arguments),) = calls_of(merged(events))
    assert (name, arguments["zone"]) in [("zone", "QX-17"), ("zone", "ZV-23")]
