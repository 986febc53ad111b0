"""A client of its own for the real process: raw pipes, both framings.

Of `car_rpc` it uses only what checks the log afterwards.

The driver checks every byte that comes: whatever is on stdout and is not a message fails the
test that looks at it next.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import re
import select
import socket
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias

import psutil
import pytest

from car_rpc.eventlog.story import problems
from car_rpc.eventlog.verification import Verified, verify_page
from tests.conftest import SOAK
from tests.replays import check_decisions, check_replays, read_log, stories_of

ROOT = Path(__file__).parent.parent.parent

#: The product's bound for every ending.
EXIT_S = 2.0
#: What a machine that trains a model beside the tests may add to it before a process of ours
#: was even scheduled. The bound itself is the product's watchdog; this only avoids false alarms.
SLACK_S = 8.0
#: Bound of every wait for something that takes milliseconds on an idle machine.
WAIT_S = 45.0

#: Requests of one log for which everything is decided again; all of them in `make soak`.
DECISIONS = 20

PR_SET_CHILD_SUBREAPER = 36  # <sys/prctl.h>

#: An object, or the array of a batch.
Message: TypeAlias = Any
Io: TypeAlias = Literal["pipes", "sockets"]
Framing: TypeAlias = Literal["ndjson", "lsp"]

#: Imports that a test holds up (`GATED_IMPORT`, until the FIFO `GATE` is opened) or makes noisy
#: (`NOISY_IMPORTS`, separated by commas), in every Python process that is started with it.
SITECUSTOMIZE = """
import os, sys

class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == os.environ.get("GATED_IMPORT"):
            open(os.environ["GATE"] + ".reached", "wb").close()
            open(os.environ["GATE"], "rb").close()
        if name in os.environ.get("NOISY_IMPORTS", "").split(","):
            print("python print while importing", name)
            os.write(1, b"native print while importing " + name.encode() + b"\\n")

sys.meta_path.insert(0, Finder())
"""

#: Starts the command in its arguments (PARENT becomes its own pid), tells the pid, and waits.
INTERMEDIATE = """
import os, subprocess, sys
command = [str(os.getpid()) if word == "PARENT" else word for word in sys.argv[1:]]
child = subprocess.Popen(command)
sys.stderr.write(f"{child.pid}\\n")
sys.stderr.flush()
child.wait()
"""


class Closed(Exception):
    """The output ended before what was waited for."""


class Core:
    """A running `car-rpc serve` and everything that it ever wrote."""

    def __init__(
        self,
        state_dir: Path,
        *arguments: str,
        framing: Framing = "ndjson",
        io: Io = "pipes",
        env: dict[str, str] | None = None,
        command: Sequence[str] = (sys.executable, "-m", "car_rpc", "serve"),
        stderr: int | None = None,
        under: Sequence[str] = (),
    ) -> None:
        self.framing: Framing = framing
        self.state_dir = state_dir
        self.stderr_path = state_dir.with_suffix(".stderr")
        child_stdin, self.stdin = _channel(io)
        self.stdout, child_stdout = _channel(io)
        log = os.open(self.stderr_path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        self.process = subprocess.Popen(
            [*under, *command, "--state-dir", str(state_dir), *arguments],
            stdin=child_stdin,
            stdout=child_stdout,
            stderr=log if stderr is None else stderr,
            cwd=ROOT,
            env={**os.environ, **(env or {})},
        )
        for fd in (child_stdin, child_stdout, log):
            os.close(fd)
        self.pid = self.process.pid
        self.messages: list[Message] = []
        self.raw_bytes = 0
        self._needed = 0
        self._offsets: list[int] = []
        self._next_id = 1000
        self._changed = threading.Condition()
        self._ended: Exception | None = None
        self._woken, self._wake = os.pipe()
        self._may_read = threading.Event()
        self._may_read.set()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    # Writing

    def send_raw(self, data: bytes) -> None:
        while data:
            data = data[os.write(self.stdin, data) :]

    def wrap(self, *messages: object) -> bytes:
        payloads = [json.dumps(message).encode() for message in messages]
        if self.framing == "lsp":
            return b"".join(b"Content-Length: %d\r\n\r\n%b" % (len(p), p) for p in payloads)
        return b"".join(payload + b"\n" for payload in payloads)

    def wrap_raw(self, payload: bytes) -> bytes:
        """A payload that is no JSON, as one message."""
        if self.framing == "lsp":
            return b"Content-Length: %d\r\n\r\n%b" % (len(payload), payload)
        return payload + b"\n"

    def send(self, *messages: object) -> None:
        self.send_raw(self.wrap(*messages))

    def ask(self, method: str, params: object = None, request_id: object = None) -> Any:
        """Send a request; returns its id."""
        if request_id is None:
            self._next_id += 1
            request_id = self._next_id
        self.send(request(request_id, method, params))
        return request_id

    def notify(self, method: str, params: object) -> None:
        self.send({"jsonrpc": "2.0", "method": method, "params": params})

    def cancel(self, request_id: object) -> None:
        self.notify("$/cancelRequest", {"id": request_id})

    def close_stdin(self) -> None:
        if self.stdin >= 0:
            os.close(self.stdin)
            self.stdin = -1

    def stop_reading(self) -> None:
        """Close our end of the output, as the death of an app does."""
        self.resume()
        os.write(self._wake, b"!")
        self._reader.join(WAIT_S)
        os.close(self.stdout)
        self.stdout = -1

    # Reading

    def stall(self) -> None:
        """Read no more; what is being read still arrives."""
        self._may_read.clear()

    def resume(self) -> None:
        self._may_read.set()

    def wait_for(
        self, wanted: Callable[[dict[str, Any]], bool], since: int = 0, timeout: float = WAIT_S
    ) -> dict[str, Any]:
        """The first message from index `since` on that is wanted."""
        deadline = time.monotonic() + timeout
        with self._changed:
            seen = since
            while True:
                for message in self.messages[seen:]:
                    if isinstance(message, dict) and wanted(message):
                        return message
                seen = max(seen, len(self.messages))
                if self._ended is not None:
                    raise self._ended
                if not self._changed.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"not among {self.messages[-5:]!r}")

    def wait_batch(self, since: int, timeout: float = WAIT_S) -> list[dict[str, Any]]:
        """The first array from index `since` on."""
        with self._changed:
            assert self._changed.wait_for(
                lambda: any(isinstance(m, list) for m in self.messages[since:]), timeout
            )
            return next(m for m in self.messages[since:] if isinstance(m, list))

    def response(self, request_id: object, since: int = 0, timeout: float = WAIT_S) -> Any:
        """The response to a request, whatever it is."""
        return self.wait_for(lambda m: is_response(m) and same(m["id"], request_id), since, timeout)

    def responses(self, request_id: object) -> int:
        """How many responses a request has got so far."""
        return sum(
            isinstance(m, dict) and is_response(m) and same(m["id"], request_id)
            for m in [*self.messages]
        )

    def call(self, method: str, params: object = None, timeout: float = WAIT_S) -> Any:
        """The result of a request."""
        response = self.response(self.ask(method, params), timeout=timeout)
        assert "result" in response, response
        return response["result"]

    def fail(self, method: str, params: object = None, timeout: float = WAIT_S) -> Any:
        """The error of a request."""
        response = self.response(self.ask(method, params), timeout=timeout)
        assert "error" in response, response
        return response["error"]

    def ping(self) -> dict[str, Any]:
        return self.call("ping")

    def index(self, message: Message) -> int:
        return next(i for i, known in enumerate(self.messages) if known is message)

    def offset(self, message: Message) -> int:
        """Bytes that had been received when a message was."""
        return self._offsets[self.index(message)]

    def stream(self, request_id: object) -> list[dict[str, Any]]:
        """The params of all events of a request so far."""
        return [
            m["params"]
            for m in [*self.messages]
            if isinstance(m, dict)
            and m.get("method") == "generate.event"
            and same(m["params"]["request_id"], request_id)
        ]

    def first_event(self, request_id: object, event_type: str, **fields: object) -> dict[str, Any]:
        """The first event of a request that has this type and these fields."""

        def wanted(message: dict[str, Any]) -> bool:
            params = message.get("params", {})
            return (
                message.get("method") == "generate.event"
                and same(params["request_id"], request_id)
                and {**params["event"], **fields, "type": event_type} == params["event"]
            )

        return self.wait_for(wanted)

    def initialize(self, **params: object) -> dict[str, Any]:
        return self.call("initialize", {"protocol_version": 1, **params})

    def register(self, model_id: str, source: object, *capabilities: str) -> str:
        model = {
            "id": model_id,
            "source": source,
            "capabilities": list(capabilities or ["generate"]),
        }
        self.call("models.register", {"model": model})
        return model_id

    def fake(self, model_id: str, *script: object) -> str:
        return self.register(model_id, {"type": "fake", "script": list(script)})

    def generate(self, model: str, prompt: str = "Hello", **params: Any) -> Any:
        """Send a streamed `generate`; returns its id."""
        return self.ask("generate", {"model": model, "prompt": prompt, "stream": True, **params})

    def _read(self) -> None:
        buffer = bytearray()
        try:
            while True:
                self._may_read.wait()
                readable, _, _ = select.select([self.stdout, self._woken], [], [])
                if self._woken in readable:
                    raise Closed("we read no more")
                data = os.read(self.stdout, 65536)
                if not data:
                    break
                self.raw_bytes += len(data)
                buffer += data
                # Large messages come in many pieces, and are looked at when they may be whole.
                if len(buffer) >= self._needed and (self.framing == "lsp" or b"\n" in data):
                    buffer = bytearray(self._split(bytes(buffer)))
            assert not buffer, f"a cut message at the end: {buffer!r}"
            ended: Exception = Closed("the output ended")
        except (Closed, OSError, AssertionError, ValueError) as error:
            ended = error
        with self._changed:
            self._ended = ended
            self._changed.notify_all()

    def _split(self, data: bytes) -> bytes:
        messages: list[Message] = []
        while True:
            if self.framing == "lsp":
                header = re.match(rb"Content-Length: ([0-9]+)\r\n\r\n", data)
                assert header or len(data) < 40, f"not a header: {data[:200]!r}"
                self._needed = header.end() + int(header[1]) if header else 0
                if not header or len(data) < self._needed:
                    break
                end, self._needed = self._needed, 0
                payload, data = data[header.end() : end], data[end:]
            else:
                payload, found, rest = data.partition(b"\n")
                if not found:
                    break
                data = rest
            messages.append(parse(payload))
        with self._changed:
            self.messages += messages
            self._offsets += [self.raw_bytes] * len(messages)
            self._changed.notify_all()
        return data

    # Processes

    def tree(self) -> list[psutil.Process]:
        """The core and all its descendants."""
        process = psutil.Process(self.pid)
        return [process, *process.children(recursive=True)]

    def worker(self) -> psutil.Process:
        """The one worker of the core."""
        (worker,) = psutil.Process(self.pid).children()
        return worker

    def wait(self, timeout: float = EXIT_S + SLACK_S) -> int:
        """The exit code."""
        return self.process.wait(timeout)

    def ended_output(self) -> list[Message]:
        """All messages, once the output has ended and was clean to its last byte."""
        self.resume()
        self._reader.join(WAIT_S)
        assert isinstance(self._ended, Closed), self._ended
        return self.messages

    def stderr(self) -> str:
        return self.stderr_path.read_text(encoding="utf-8", errors="replace")

    def kill(self) -> None:
        """Leave nothing behind, whatever the test did."""
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in [*psutil.Process(self.process.pid).children(recursive=True)]:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self.process.kill()
        self.process.wait()
        self.close_stdin()
        self.resume()
        self._reader.join(WAIT_S)
        if self.stdout >= 0:
            os.close(self.stdout)
        os.close(self._wake)
        os.close(self._woken)


class Adopted(Core):
    """A core whose parent is a process between it and the test.

    Args:
        told_by: How it gets to know its parent: `process_id`, `parent_pid` or not at all.
    """

    def __init__(self, state_dir: Path, *arguments: str, told_by: str = "", **options: Any) -> None:
        announced, announce = os.pipe()
        if told_by == "parent_pid":
            arguments = (*arguments, "--parent-pid", "PARENT")
        under = (sys.executable, "-c", INTERMEDIATE)
        super().__init__(state_dir, *arguments, stderr=announce, under=under, **options)
        self.parent = self.process
        self._told_by = told_by
        os.close(announce)
        line = b""
        while not line.endswith(b"\n"):
            line += os.read(announced, 1)
        self.pid = int(line)
        # The core's log goes the same way; nobody reads it, and the test must not wait for it.
        self._announced = announced

    def initialize(self, **params: object) -> dict[str, Any]:
        if self._told_by == "process_id":
            params["process_id"] = self.parent.pid
        return super().initialize(**params)

    def exit_code(self) -> int:
        """The exit code of the core, which the test has inherited from the dead parent."""
        return int(psutil.Process(self.pid).wait(EXIT_S + SLACK_S) or 0)

    def kill(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            for process in self.tree():
                process.kill()
        super().kill()
        os.close(self._announced)


def _channel(io: Io) -> tuple[int, int]:
    """A reading and a writing end."""
    if io == "pipes":
        return os.pipe()
    reading, writing = socket.socketpair()
    return reading.detach(), writing.detach()


def parse(payload: bytes) -> Message:
    for line_break in ("\n", "\u2028", "\u2029", "\u0085"):
        assert line_break.encode() not in payload
    message = json.loads(payload)
    for each in message if isinstance(message, list) else [message]:
        assert each["jsonrpc"] == "2.0", payload[:200]
        assert ("method" in each) != ("result" in each or "error" in each), payload[:200]
    return message


def request(request_id: object, method: str, params: object = None) -> dict[str, Any]:
    return {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params or {}}


def is_response(message: dict[str, Any]) -> bool:
    return "method" not in message


def same(left: object, right: object) -> bool:
    """Ids are equal only with their type."""
    return type(left) is type(right) and left == right


def event(text: str) -> dict[str, Any]:
    """A step of a fake model that emits text."""
    return {"emit": {"type": "text_delta", "text": text}}


#: A step that plays the script in a worker process.
IN_WORKER = {"print": "noise from the worker\n"}


def check_stream(events: Sequence[dict[str, Any]], last: str = "done") -> None:
    """Numbered without a gap, `attempt` first, and exactly one end, at the end.

    A request that failed before its first attempt has nothing but the `error`.
    """
    assert [each["seq"] for each in events] == list(range(len(events)))
    types = [each["event"]["type"] for each in events]
    assert types[0] == "attempt" or types == ["error"]
    assert types[-1] == last
    assert not {"done", "error"} & set(types[:-1])


def text_of(events: Iterable[dict[str, Any]]) -> str:
    return "".join(e["event"]["text"] for e in events if e["event"]["type"] == "text_delta")


def wait_until(condition: Callable[[], bool], timeout: float = WAIT_S) -> None:
    """Wait for something outside our processes' messages; looks 50 times a second."""
    deadline = time.monotonic() + timeout
    never = threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        never.wait(0.02)


def assert_gone(processes: Iterable[psutil.Process], within: float = EXIT_S + SLACK_S) -> None:
    """No process is left; one that only waits to be reaped by its new parent is gone."""
    left = [*processes]

    def all_gone() -> bool:
        left[:] = [each for each in left if _lives(each)]
        return not left

    with contextlib.suppress(AssertionError):
        wait_until(all_gone, within)
    assert not left


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


StartCore: TypeAlias = Callable[..., Core]


@pytest.fixture
def start_core(tmp_path: Path) -> Iterator[StartCore]:
    """Starts cores; each in a state directory of its own unless one is given."""
    cores: list[Core] = []

    def start(
        *arguments: str, state_dir: Path | None = None, kind: type[Core] = Core, **options: Any
    ) -> Core:
        directory = state_dir or tmp_path / f"state-{len(cores)}"
        cores.append(kind(directory, *arguments, **options))
        return cores[-1]

    yield start
    for core in cores:
        core.kill()
    for directory in {core.state_dir for core in cores}:
        check_log(directory, [core for core in cores if core.state_dir == directory])


def check_log(state_dir: Path, cores: Sequence[Core] = ()) -> None:
    """Whatever a test did to the process: its log is as it was written, its stories are good.

    And what it would show again of them is what the cores said.
    """
    path = state_dir / "car.db"
    if not path.exists():
        return
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            tables = db.execute("SELECT name FROM sqlite_master").fetchall()
        except sqlite3.DatabaseError:  # the test put something else there
            return
    if ("chain",) not in tables:  # it was killed before it made them
        return
    verified = Verified()
    while not verified.done:
        verified = verify_page(path, verified)
    assert verified.bad_seq is None, verified
    events = [*read_log(path)]
    stories = stories_of(events)
    for trace_id, story in stories.items():
        assert list(problems(story)) == [], trace_id
    check_replays(stories, (message for core in cores for message in core.messages))
    inputs = [event for event in events if event.type == "routing_inputs"]
    check_decisions(stories, inputs, most=1_000_000 if SOAK else DECISIONS)


@pytest.fixture
def core(start_core: StartCore) -> Core:
    """One core that is ready."""
    core = start_core()
    core.initialize()
    return core


class Gate:
    """Holds up an import in the processes that are started with `env`."""

    def __init__(self, directory: Path, site: Path, module: str) -> None:
        self._fifo = directory / "gate"
        os.mkfifo(self._fifo)
        self.env = {"PYTHONPATH": str(site), "GATE": str(self._fifo), "GATED_IMPORT": module}

    def open(self) -> None:
        """Let the import go on; waits until it is there."""
        self._fifo.write_bytes(b"")

    def reached(self) -> bool:
        """Whether an import has come to the gate."""
        return self._fifo.with_suffix(".reached").exists()


@pytest.fixture
def site_dir(tmp_path: Path) -> Path:
    """A folder for PYTHONPATH that makes imports noisy or holds them up; see SITECUSTOMIZE."""
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(SITECUSTOMIZE)
    return site


@pytest.fixture
def make_gate(tmp_path: Path, site_dir: Path) -> Callable[[str], Gate]:
    return lambda module: Gate(tmp_path, site_dir, module)


@pytest.fixture
def inherits_orphans() -> Iterator[None]:
    """Makes this process the parent of orphans below it, so that their exit codes can be seen."""
    if sys.platform != "linux":
        pytest.skip("only Linux lets a process inherit orphans")
    prctl = ctypes.CDLL(None).prctl
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0)
