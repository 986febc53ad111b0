"""The start answers nothing in another way than the session would, and loses nothing."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.cli.parser import make_parser, settings
from car_rpc.host import bootstrap as module
from car_rpc.host.bootstrap import Bootstrap, can_bootstrap, plain_request
from car_rpc.host.greeting import initialize_result, installed_backends
from car_rpc.protocol.framing import wrap
from car_rpc.transport.claim import Claimed
from car_rpc.wire.lifecycle import InitializeParams, InitializeResult
from tests.host.conftest import App

ROOT = Path(__file__).parents[2]


def request(method: str, params: object = None, request_id: object = 1, **more: object) -> bytes:
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, **more}
    if params is not None:
        message["params"] = params
    return json.dumps(message, ensure_ascii=False).encode()


def initialize(**params: object) -> bytes:
    return request("initialize", {"protocol_version": 1, **params})


PING = request("ping")
INITIALIZE = initialize()

#: Everything that is answered at once.
PLAIN = [
    PING,
    request("ping", {}, 0),
    request("ping", {}, ""),
    request("ping", {}, "é\u2028\x7f"),
    request("ping", {}, 2**53 - 1),
    request("ping", {}, 1 - 2**53),
    PING.replace(b'"method"', b'"params":null,"method"'),
    b" \t" + PING + b" \r",
    b"\xef\xbb\xbf" + PING,
    b'{"id":-0,"method":"ping","jsonrpc":"2.0"}',
    rb'{"jsonrpc":"2.0","id":"a\/\"\\b","method":"ping"}',
    INITIALIZE,
    initialize(client_info={"name": "app", "version": "1"}, process_id=os.getpid()),
    initialize(client_info={"name": ""}, allowed_paths=["/tmp", "ö"]),
    initialize(capabilities={}),
    initialize(capabilities={"log": {"level": "error"}, "progress": True, "approve": False}),
    initialize(capabilities={"log": {}}),
]

#: Everything that another reader of JSON might take differently, or that is wrong.
ODD = [
    b"",
    b"{",
    b"[]",
    b"1",
    b"null",
    b"[%b]" % PING,
    b"\xff" + PING,
    PING.replace(b"ping", b"p\xffng"),
    PING.replace(b"ping", rb"\u0070ing"),
    PING.replace(b'"id": 1', rb'"id": "\ud800"'),
    PING.replace(b'"id": 1', b'"id": 1, "id": 2'),
    PING.replace(b'"id": 1', b'"id": 1, "other": NaN'),
    PING + b" x",
    b"[" * 200 + b"]" * 200,
    b"[" * 100_000,
    request("ping", {}, 1.0),
    request("ping", {}, 2**53),
    request("ping", {}, True),
    request("ping", {}, None),
    request("ping", {}, []),
    request("ping", []),
    request("ping", {"a": 1}),
    request("ping", 5),
    request("ping", {}, 1, jsonrpc="1.0"),
    request("ping", {}, 1, jsonrpc=2.0),
    request("ping", {}, 1, result=None),
    request("ping", {}, 1, more=None),
    b'{"jsonrpc":"2.0","method":"ping"}',
    b'{"jsonrpc":"2.0","id":1,"method":null}',
    b'{"jsonrpc":"2.0","id":1,"result":{}}',
    request("initialize"),
    request("initialize", []),
    request("initialize", {}),
    initialize(protocol_version=2),
    initialize(protocol_version=True),
    initialize(protocol_version=1.0),
    initialize(protocol_version="1"),
    initialize(client_info=None),
    initialize(client_info={}),
    initialize(client_info={"name": 1}),
    initialize(process_id=None),
    initialize(process_id=0),
    initialize(process_id=2**31),
    initialize(process_id=1.5),
    initialize(process_id=True),
    initialize(allowed_paths="/"),
    initialize(allowed_paths=[1]),
    initialize(allowed_paths={}),
    initialize(capabilities=None),
    initialize(capabilities={"log": {"level": "loud"}}),
    initialize(capabilities={"log": None}),
    initialize(capabilities={"progress": 1}),
    initialize(capabilities={"other": 1}),
    initialize(other=1),
    request("models.list", {}),
    request("exit"),
    request("initialize", {"protocol_version": 1, "client_info": {"name": "x" * 70_000}}),
]


class Wire:
    """A bootstrap between two pipes."""

    def __init__(self) -> None:
        reader_fd, self.stdin = os.pipe()
        self.stdout, writer_fd = os.pipe()
        self.claimed = Claimed(reader_fd, writer_fd)
        self.bootstrap = Bootstrap(self.claimed, time.monotonic())
        self.open = {reader_fd, writer_fd, self.stdin, self.stdout}

    def send(self, data: bytes) -> None:
        os.write(self.stdin, data)
        self.bootstrap._look()

    def close(self, *fds: int) -> None:
        for fd in fds or [*self.open]:
            os.close(fd)
            self.open.discard(fd)

    def output(self) -> bytes:
        os.set_blocking(self.stdout, False)
        try:
            return os.read(self.stdout, 1 << 20)
        except BlockingIOError:
            return b""


@pytest.fixture
def wire() -> Any:
    wire = Wire()
    yield wire
    wire.close()


def messages(output: bytes) -> list[Any]:
    return [json.loads(line) for line in output.splitlines()]


async def conversation(app: App, *chunks: bytes) -> list[Any]:
    for chunk in chunks:
        app.session.receive(chunk)
        await asyncio.sleep(0)
    app.loaded.set()
    app.request("last", "models.list")
    await app.until(lambda m: isinstance(m, dict) and m.get("id") == "last")
    return app.messages


def visible(messages: list[Any]) -> list[Any]:
    """The messages without what a ping tells only once the process has started."""
    for message in messages:
        if isinstance(message, dict):
            message.get("result", {}).pop("runner", None)
    return messages


async def compare(app: App, other: App, wire: Wire, *chunks: bytes) -> None:
    """Whatever is answered early, a client sees what it would have seen."""
    wire.bootstrap.session_id = "ses_1"
    wire.bootstrap.startup_ms = {"ready": 1.0}
    wire.bootstrap.mark = lambda phase: None
    early = 0
    while early < len(chunks) and not wire.bootstrap.unanswered:
        wire.send(chunks[early])
        early += 1
    before = messages(wire.output())
    if wire.bootstrap.has_read:
        other.session.take_over(wire.bootstrap)
    after = await conversation(other, *chunks[early:])
    assert visible(before + after) == visible(await conversation(app, *chunks))
    assert app.introduced == other.introduced


@pytest.fixture
def backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "installed_backends", lambda: {"fake": {"available": True}})


@pytest.mark.parametrize("data", PLAIN)
def test_what_is_plain_is_answered_at_once(wire: Wire, data: bytes) -> None:
    wire.send(data + b"\n")
    (answer,) = messages(wire.output())
    assert answer["id"] == json.loads(data)["id"]
    assert "result" in answer
    assert not wire.bootstrap.unanswered


@pytest.mark.parametrize("data", ODD)
def test_what_is_odd_is_left_to_the_session(wire: Wire, data: bytes) -> None:
    assert plain_request(data) is None
    wire.send(data[:60_000] + b"\n")
    assert wire.output() == b""


@pytest.mark.parametrize("data", [*PLAIN, *ODD])
async def test_every_message_is_answered_as_by_the_session(
    wire: Wire, registry: Any, tmp_path: Path, backends: None, data: bytes
) -> None:
    apps = App(registry, tmp_path), App(registry, tmp_path)
    chunks = [INITIALIZE.replace(b'"id": 1', b'"id": "first"'), data[:60_000], PING, INITIALIZE]
    await compare(*apps, wire, *[chunk + b"\n" for chunk in chunks])


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
@pytest.mark.parametrize("size", [1, 7, 100, 60_000])
async def test_no_byte_is_lost_however_the_input_is_cut(
    wire: Wire, registry: Any, tmp_path: Path, backends: None, framing: Any, size: int
) -> None:
    apps = App(registry, tmp_path), App(registry, tmp_path)
    stream = b"".join(
        wrap(each, framing)
        for each in [PING, INITIALIZE, PING, request("ping", {}, 2), request("models.list"), PING]
    )
    for app in apps:
        app.framing = framing
    chunks = [stream[start : start + size] for start in range(0, len(stream), size)]
    if framing == "lsp":
        wire.send(stream)
        assert wire.output().count(b"Content-Length") == 4
        assert len(wire.bootstrap.unanswered) == 2
    else:
        await compare(*apps, wire, *chunks)


@given(st.lists(st.sampled_from([*PLAIN, *ODD[:20], b"\n", b"Content-Length: 2\r\n\r\n{}"])))
def test_answers_never_change_their_order(pieces: list[bytes]) -> None:
    wire = Wire()
    try:
        data = b"".join(piece[:2000] + b"\n" for piece in pieces) or b"\n"
        wire.send(data)
        answered = len(messages(wire.output()))
        assert answered + len(wire.bootstrap.unanswered) <= data.count(b"\n")
        for event in wire.bootstrap.unanswered[:1]:
            left = plain_request(event) if isinstance(event, bytes) else None
            assert left is None or (
                left.method == "initialize" and wire.bootstrap.initialize_params
            )
    finally:
        wire.close()


def test_a_second_introduction_is_left_to_the_session(wire: Wire) -> None:
    wire.send(INITIALIZE + b"\n" + INITIALIZE + b"\n" + PING + b"\n")
    assert len(messages(wire.output())) == 1
    assert len(wire.bootstrap.unanswered) == 2


def test_after_something_odd_nothing_more_is_read(wire: Wire) -> None:
    wire.send(b"odd\n")
    wire.send(PING + b"\n")
    assert wire.output() == b""
    assert len(wire.bootstrap.unanswered) == 1
    assert os.read(wire.claimed.reader_fd, 1000) == PING + b"\n"


def test_an_output_that_is_full_is_left_to_the_session(wire: Wire) -> None:
    os.set_blocking(wire.claimed.writer_fd, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(wire.claimed.writer_fd, b"x" * 4096)
    wire.send(INITIALIZE + b"\n")
    assert wire.bootstrap.initialize_params is None
    assert len(wire.bootstrap.unanswered) == 1


def test_an_output_that_nobody_reads_is_left_to_the_session(wire: Wire) -> None:
    wire.close(wire.stdout)
    wire.send(INITIALIZE + b"\n")
    assert wire.bootstrap.initialize_params is None
    assert len(wire.bootstrap.unanswered) == 1


def test_the_end_of_the_input_is_left_to_the_session(wire: Wire) -> None:
    wire.close(wire.stdin)
    wire.bootstrap._look()
    assert not wire.bootstrap.has_read


def test_the_greeting_is_what_the_specification_says() -> None:
    greeting = initialize_result("ses_1", 5, installed_backends())
    typed = msgspec.convert(greeting, InitializeResult, strict=True)
    assert msgspec.to_builtins(typed) == greeting


def test_every_known_parameter_of_the_introduction_is_plain() -> None:
    def members(shape: Any, wanted: Any) -> None:
        fields = {field.name: field.type for field in msgspec.structs.fields(wanted)}
        assert shape.keys() == fields.keys()
        for name, inner in shape.items():
            if isinstance(inner, dict):
                kinds = [fields[name], *getattr(fields[name], "__args__", ())]
                (struct,) = [kind for kind in kinds if hasattr(kind, "__struct_fields__")]
                members(inner, struct)

    members(module._PLAIN_PARAMS, InitializeParams)


words = st.sampled_from(
    [
        *module._PLAIN_OPTIONS,
        "serve",
        "debug",
        "info",
        "loud",
        "--framing",
        "lsp",
        "x",
        "-x",
        "",
        "-",
    ]
)


@given(st.lists(words, max_size=6))
def test_a_plain_command_line_has_nothing_that_the_start_does_not_know(words: list[str]) -> None:
    wire = Wire()
    accepted = can_bootstrap(words, wire.claimed)
    wire.close()
    if accepted:
        options = settings(
            make_parser().parse_args(words if words[:1] == ["serve"] else ["serve", *words])
        )
        assert options.framing is None
        assert options.max_message_bytes == module.DEFAULT_MAX_MESSAGE_BYTES


@pytest.mark.parametrize(
    ("arguments", "is_plain"),
    [
        ([], True),
        (["serve", "--state-dir", "/tmp/x", "--log-level", "warning"], True),
        (["serve", "--log-level", "loud"], False),
        (["serve", "--framing", "lsp"], False),
        (["serve", "--max-message-bytes", "100"], False),
        (["serve", "--state-dir"], False),
        (["serve", "--state-dir=/tmp/x"], False),
        (["serve", "--state-dir", "--log-level"], False),
    ],
)
def test_only_a_plain_command_line_lets_answers_precede(
    wire: Wire, arguments: list[str], is_plain: bool
) -> None:
    assert can_bootstrap(arguments, wire.claimed) is is_plain


def test_files_are_left_to_the_session(wire: Wire, tmp_path: Path) -> None:
    with (tmp_path / "input").open("wb") as file:
        assert not can_bootstrap([], wire.claimed._replace(reader_fd=file.fileno()))
        assert not can_bootstrap([], wire.claimed._replace(writer_fd=file.fileno()))


#: Answers an introduction and tells which modules that took.
PROGRAM = """
import os, sys, time
from car_rpc.host.bootstrap import Bootstrap
from car_rpc.transport.claim import Claimed
(reader, stdin), (stdout, writer) = os.pipe(), os.pipe()
os.write(stdin, sys.argv[1].encode() + b"\\n")
bootstrap = Bootstrap(Claimed(reader, writer), time.monotonic())
bootstrap._look()
assert bootstrap.initialize_params
print("\\n".join(sys.modules))
"""


def test_the_introduction_needs_few_modules() -> None:
    def modules(*command: str) -> set[str]:
        done = subprocess.run(
            [sys.executable, *command], capture_output=True, text=True, check=True, cwd=ROOT
        )
        return set(done.stdout.split())

    needed = modules("-c", PROGRAM, INITIALIZE.decode())
    needed -= modules("-c", "import sys; print('\\n'.join(sys.modules))")
    assert len(needed) < 60, sorted(needed)
    assert {name.partition(".")[0] for name in needed} - {"car_rpc"} <= sys.stdlib_module_names
    assert not needed & {"asyncio", "argparse", "logging", "pathlib", "ssl", "threading"}
