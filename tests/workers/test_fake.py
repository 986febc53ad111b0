"""The scripted worker, as a real process."""

import signal
import sys
from collections.abc import Callable

import pytest

from car_rpc.wire.content import Message
from car_rpc.wire.events import Stop, TextDelta
from car_rpc.wire.models import ScriptedFailure, ScriptStep
from car_rpc.wire.worker import (
    Cancel,
    Events,
    Failed,
    Generate,
    Load,
    Loaded,
    Pause,
    Reply,
    Resume,
    Tokenize,
)
from car_rpc.workers.runtime import EXIT_CORE_GONE, EXIT_NOT_LOADED

pytestmark = pytest.mark.process

END = Stop(reason="end_turn")
STALL = ScriptStep(stall=True)


def say(text: str) -> ScriptStep:
    return ScriptStep(emit=TextDelta(text=text))


def ask(request_id: int = 1) -> Generate:
    return Generate(id=request_id, messages=[Message(role="user", content="one two")])


@pytest.fixture
def play(start_worker) -> Callable:
    """Starts a worker that plays these steps."""

    def start(*steps: ScriptStep):
        worker = start_worker("fake")
        assert isinstance(worker.load(script=list(steps)), Loaded)
        return worker

    return start


def test_a_script_is_played_for_each_request(play: Callable) -> None:
    worker = play(ScriptStep(echo=True), say("!"))
    for request_id in (1, 2):
        worker.send(ask(request_id))
        events, answer = worker.collect(request_id)
        assert events == [*(TextDelta(text=text) for text in ("one", " two", "!")), END]
        assert answer == Reply(id=request_id)
    assert worker.close() == EXIT_CORE_GONE


def test_what_is_printed_never_reaches_the_frames(play: Callable) -> None:
    worker = play(ScriptStep(print="stray\n"), say("clean"))
    worker.send(ask())
    assert worker.collect(1)[0] == [TextDelta(text="clean"), END]
    worker.close()
    assert "stray\n" in worker.stderr()


def test_a_script_may_fail(play: Callable) -> None:
    failure = ScriptedFailure(kind="rate_limited", message="slow down", retry_after_ms=5)
    worker = play(ScriptStep(fail=failure))
    assert worker.ask(ask()) == Failed(
        id=1, kind="rate_limited", detail="slow down", data={"retry_after_ms": 5}
    )


def test_an_unknown_kind_of_failure_is_an_ordinary_one(play: Callable) -> None:
    worker = play(ScriptStep(fail=ScriptedFailure(kind="bogus", status=500)))
    assert worker.ask(ask()) == Failed(
        id=1, kind="inference_failed", detail="scripted failure", data={"status": 500}
    )


def test_a_script_may_kill_its_process(play: Callable) -> None:
    worker = play(say("a"), ScriptStep(crash=True))
    worker.send(ask())
    assert worker.until(Events).events == [TextDelta(text="a")]
    with pytest.raises(EOFError):
        worker.receive()
    assert worker.process.wait() == -9


@pytest.mark.parametrize("step", [STALL, ScriptStep(sleep_ms=3_600_000)])
def test_a_waiting_request_can_be_cancelled(play: Callable, step: ScriptStep) -> None:
    worker = play(say("a"), step, say("b"))
    worker.send(ask())
    worker.until(Events)
    worker.send(Cancel(id=1))
    assert worker.receive() == Failed(id=1, kind="cancelled", detail="")


def test_requests_are_played_at_the_same_time(play: Callable) -> None:
    worker = play(say("a"), STALL)
    worker.send(ask(1), ask(2))
    assert {worker.until(Events).id, worker.until(Events).id} == {1, 2}


def test_a_paused_request_says_nothing_until_it_is_resumed(play: Callable) -> None:
    worker = play(say("a"), STALL)
    worker.send(ask(1), Pause(id=1), ask(2))
    while worker.until(Events).id != 2:  # it may have spoken before the pause
        pass
    worker.send(Resume(id=1), Cancel(id=1))
    assert worker.until(Failed).id == 1


def test_a_step_without_an_action_does_not_load(start_worker) -> None:
    worker = start_worker("fake")
    worker.send(Load(script=[ScriptStep()]))
    assert worker.receive() == Failed(
        id=0,
        kind="model_load_failed",
        detail="the script is wrong: step 0 needs exactly one action, found none",
    )
    assert worker.process.wait() == EXIT_NOT_LOADED


def test_a_scripted_model_only_generates(play: Callable) -> None:
    answer = play(say("a")).ask(Tokenize(id=1, text="a"))
    assert isinstance(answer, Failed)
    assert answer.kind == "unsupported_mode"


def test_an_unknown_engine_is_refused(start_worker) -> None:
    worker = start_worker("nonsense")
    assert worker.process.wait() == 64
    assert "usage:" in worker.stderr()


def test_an_interrupt_from_the_terminal_is_left_to_the_core(play: Callable) -> None:
    worker = play(say("a"))
    worker.process.send_signal(signal.SIGINT)
    assert worker.ask(ask()) == Reply(id=1)
    assert worker.close() == EXIT_CORE_GONE


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's part is Linux's own")
def test_a_killed_core_takes_the_worker_along_while_its_pipe_is_held_open(start_worker) -> None:
    parent = "import subprocess, sys; sys.exit(subprocess.Popen(sys.argv[1:]).wait())"
    worker = start_worker("fake", through=(sys.executable, "-c", parent))
    assert isinstance(worker.load(script=[STALL]), Loaded)
    worker.process.kill()
    with pytest.raises(EOFError):
        worker.receive()
