"""The dialogues of `spec/conformance`: against the real process, against themselves, and each
message in them against the wire types."""

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import KINDS
from car_rpc.host.wiring import DATABASE_NAME
from car_rpc.wire.lifecycle import InitializeResult
from car_rpc.wire.methods import METHODS
from spec.conformance.fake_core import SERVER
from spec.conformance.play import Dialogue, FormatError, Mismatch, Variables, play
from tests.replays import check_decisions, check_replays, read_log, stories_of

pytestmark = pytest.mark.process

CONFORMANCE = Path(__file__).parent.parent.parent / "spec" / "conformance"
DIALOGUES = [Dialogue(str(path)) for path in sorted((CONFORMANCE / "dialogues").glob("*.ndjson"))]
FAKE_CORE = (sys.executable, "-I", "-S", str(CONFORMANCE / "fake_core.py"))
CORE = (sys.executable, "-m", "car_rpc", "serve")

#: Plays at once: most of each is waiting.
WORKERS = 3

#: A machine may have other work to do than these tests.
PATIENCE = 3.0


def path_of(name: str) -> Path:
    return CONFORMANCE / "dialogues" / f"{name}.ndjson"


def plays_of(dialogues: list[Dialogue], command: tuple[str, ...] | None) -> list[Any]:
    """Each dialogue in each of its framings; without a command against its own fake core."""
    return [
        pytest.param(
            (each.name, command or (*FAKE_CORE, str(path_of(each.name))), framing),
            id=f"{each.name}-{framing}",
        )
        for each in dialogues
        for framing in each.framings
    ]


@pytest.fixture(scope="module")
def outcomes(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[Any, Future[None]]]:
    """The outcomes of all plays that were selected, a few at once and in their order."""
    own = (item for item in request.session.items if item.path == request.path)
    chosen = [item.callspec.params["chosen"] for item in own if "outcomes" in item.fixturenames]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {
            (name, command, framing): pool.submit(
                check, path_of(name), command, framing, tmp_path_factory.mktemp("state")
            )
            for name, command, framing in chosen
        }
        pool.shutdown(cancel_futures=True)


def check(path: Path, command: tuple[str, ...], framing: str, state_dir: Path) -> None:
    """Play a dialogue; what the core's log would show again of it is what the core said."""
    heard: list[Any] = []
    play(path, command, framing, patience=PATIENCE, state_dir=state_dir, heard=heard)
    database = state_dir / DATABASE_NAME
    if database.exists():
        events = [*read_log(database)]
        stories = stories_of(events)
        check_replays(stories, heard)
        inputs = (event for event in events if event.type == "routing_inputs")
        check_decisions(stories, inputs, most=len(stories))


@pytest.mark.parametrize(
    "chosen", plays_of([each for each in DIALOGUES if "core" in each.sides], CORE)
)
def test_the_core_says_what_the_dialogue_says(
    outcomes: dict[Any, Future[None]], chosen: Any
) -> None:
    outcomes[chosen].result()


@pytest.mark.parametrize("chosen", plays_of(DIALOGUES, None))
def test_both_players_agree_on_the_dialogue(outcomes: dict[Any, Future[None]], chosen: Any) -> None:
    outcomes[chosen].result()


# What a binding is tested with is what the protocol says


def examples_of(dialogue: Dialogue) -> Iterator[tuple[str, Any]]:
    """Each message of a dialogue with its side, as it is said where nobody bound a variable."""
    variables = Variables(dialogue.examples)
    for step in dialogue.steps:
        for each in step.steps():
            if each.kind in ("client", "core") and isinstance(each.value, dict):
                yield each.kind, variables.fill(each.value)


@pytest.mark.parametrize(
    "dialogue", [each for each in DIALOGUES if "client" in each.sides], ids=lambda each: each.name
)
def test_what_a_fake_core_says_has_the_types_of_the_wire(dialogue: Dialogue) -> None:
    asked: dict[tuple[str, object], str] = {}
    for side, message in examples_of(dialogue):
        method = message.get("method")
        if method is not None:
            if "id" in message:
                asked[side, message["id"]] = method
            row = METHODS.get(method)
            if side == "core" and row is not None and not from_the_future(message):
                decode(message.get("params", {}), row.params)
        elif side == "core" and "result" in message:
            row = METHODS[asked["client", message["id"]]]
            if row.result is not None:
                decode(message["result"], row.result)
        elif side == "core" and not from_the_future(message["error"]["data"]):
            assert message["error"]["code"] == KINDS[message["error"]["data"]["kind"]].code
            assert message["error"]["message"]


def decode(value: Any, wire_type: Any) -> Any:
    return msgspec.json.decode(msgspec.json.encode(value), type=wire_type)


def from_the_future(value: Any) -> bool:
    """Whether it stands for what a later version of the protocol may bring."""
    return "of_the_future" in json.dumps(value)


def test_the_fake_cores_handshake_has_the_types_of_the_wire() -> None:
    server = decode(SERVER, InitializeResult)
    assert set(server.capabilities.methods) <= set(METHODS)


# The format


@pytest.mark.parametrize(
    ("head", "steps", "problem"),
    [
        ({"dialogue": "other", "about": "x"}, [], "file's name"),
        ({"dialogue": "wrong"}, [], "about"),
        ({"dialogue": "wrong", "about": "x", "title": "y"}, [], "title"),
        ({"dialogue": "wrong", "about": "x", "sides": ["server"]}, [], "sides"),
        ({"dialogue": "wrong", "about": "x", "framings": []}, [], "framings"),
        ({"dialogue": "wrong", "about": "x", "examples": {"id": 1}}, [], "examples"),
        ({"dialogue": "wrong", "about": "x"}, [{"client": {"id": "$id"}}], "examples"),
        ({"dialogue": "wrong", "about": "x"}, [{"server": {}}], "line 2"),
        ({"dialogue": "wrong", "about": "x"}, [{"client": {}, "sometimes": 1}], "line 2"),
        ({"dialogue": "wrong", "about": "x"}, [{"client": {}, "core": {}}], "line 2"),
        ({"dialogue": "wrong", "about": "x"}, [[]], "line 2"),
        ({"dialogue": "wrong", "about": "x"}, [{"close": "stdin", "times": 2}], "times"),
        ({"dialogue": "wrong", "about": "x"}, [{"exit": 0}, {"close": "stdin"}], "follows"),
        ({"dialogue": "wrong", "about": "x"}, [{"unordered": [{"exit": 0}]}], "one side"),
        (
            {"dialogue": "wrong", "about": "x"},
            [{"unordered": [{"client": {}}, {"core": {}}]}],
            "one side",
        ),
    ],
)
def test_a_file_that_is_no_dialogue_is_refused(
    tmp_path: Path, head: Any, steps: list[Any], problem: str
) -> None:
    with pytest.raises(FormatError, match=problem):
        write(tmp_path, "wrong", head, *steps)


def write(folder: Path, name: str, head: dict[str, Any], *steps: Any) -> Path:
    path = folder / f"{name}.ndjson"
    path.write_text("".join(json.dumps(line) + "\n" for line in [head, *steps]))
    Dialogue(str(path))
    return path


# What the players notice

ASKED = {"client": {"id": 1, "method": "models.get", "params": {"a": [1, "b"]}}}
ANSWERED = {"core": {"id": 1, "result": {"in_flight": 1, "x": None, "list": [1, {"y": 2.0}]}}}


def variant(step: dict[str, Any], **members: Any) -> dict[str, Any]:
    """A step with other members in its message; `...` leaves one out."""
    ((side, message),) = step.items()
    changed = {**message, **members}
    return {side: {key: value for key, value in changed.items() if value is not ...}}


#: What the core says after ASKED, and whether that is what ANSWERED expects.
SAID: dict[str, tuple[list[Any], bool]] = {
    "the same": ([ANSWERED], True),
    "more members": (
        [
            variant(
                ANSWERED,
                result={"in_flight": 1.0, "x": None, "list": [1, {"y": 2, "z": 3}], "m": 4},
            )
        ],
        True,
    ),
    "a log line before": ([{"core": {"method": "log", "params": {}}}, ANSWERED], True),
    "another id": ([variant(ANSWERED, id=2)], False),
    "an id of another type": ([variant(ANSWERED, id="1")], False),
    "true for 1": ([variant(ANSWERED, id=True)], False),
    "a request": ([variant(ANSWERED, method="ping")], False),
    "no id": ([variant(ANSWERED, id=...)], False),
    "an error too": ([variant(ANSWERED, error={})], False),
    "another value": ([variant(ANSWERED, result={"in_flight": 2, "x": None, "list": []})], False),
    "a member less": ([variant(ANSWERED, result={"in_flight": 1, "list": [1, {"y": 2}]})], False),
    "an item more": (
        [variant(ANSWERED, result={"in_flight": 1, "x": None, "list": [1, {"y": 2}, 3]})],
        False,
    ),
    "nothing": ([{"exit": 0}], False),
    "something before": ([{"core": {"method": "x", "params": {}}}, ANSWERED], False),
    "something after": ([ANSWERED, {"core": {"method": "x", "params": {}}}], False),
    "it twice": ([ANSWERED, ANSWERED], False),
    "no JSON": ([{"core_frame": "hello"}, ANSWERED], False),
    "NaN": ([{"core_frame": '{"jsonrpc":"2.0","id":1,"result":NaN}'}], False),
    "another version": ([{"core_frame": '{"jsonrpc":"1.0","id":1,"result":{}}'}], False),
    "a raw line break": (
        [{"core_frame": '{"jsonrpc":"2.0","method":"log","params":"\u2028"}'}, ANSWERED],
        False,
    ),
    "another exit code": ([ANSWERED, {"exit": 3}], False),
}


@pytest.mark.parametrize("case", SAID)
def test_the_client_player_takes_what_is_expected_and_nothing_else(
    tmp_path: Path, case: str
) -> None:
    steps, expected = SAID[case]
    (tmp_path / "said").mkdir()
    head = {"dialogue": "case", "about": "A test."}
    said = write(tmp_path / "said", "case", head, ASKED, *steps)
    heard = write(tmp_path, "case", head, ASKED, ANSWERED)
    command = [*FAKE_CORE, str(said)]
    if expected:
        play(heard, command)
    else:
        with pytest.raises(Mismatch, match="case"):
            play(heard, command)


#: Dialogues that say how often the core says its last message.
COUNTED = [
    each
    for each in DIALOGUES
    if "core" in (kinds := {step.kind for step in each.steps}) and "may" not in kinds
]


@pytest.mark.parametrize("dialogue", COUNTED, ids=lambda each: each.name)
def test_a_core_that_says_one_thing_twice_is_noticed(tmp_path: Path, dialogue: Dialogue) -> None:
    lines = path_of(dialogue.name).read_text(encoding="utf-8").splitlines()
    last = max(step.line for step in dialogue.steps if step.kind == "core") - 1
    altered = tmp_path / f"{dialogue.name}.ndjson"
    altered.write_text("\n".join([*lines[:last], lines[last], *lines[last:]]) + "\n")
    with pytest.raises(Mismatch):
        play(path_of(dialogue.name), [*FAKE_CORE, str(altered)], dialogue.framings[0])


#: What the client says, and what the fake core reports of it when it expects ASKED.
WRONG: dict[str, tuple[list[Any], str]] = {
    "another method": ([variant(ASKED, method="shutdown")], '$.method: expected "models.get"'),
    "a notification": ([variant(ASKED, id=...)], "$.id: missing"),
    "a member less": ([variant(ASKED, params={})], "$.params.a: missing"),
    "other params": ([variant(ASKED, params={"a": [1, "c"]})], '$.params.a[1]: expected "b"'),
    "no JSON": ([{"client_frame": "hello"}], "no message"),
    "nothing": ([{"close": "stdin"}], "the end of what the client says"),
    "something before": ([{"client": {"method": "x"}}, ASKED], "$.id: missing"),
    "something after": (
        [ASKED, ANSWERED, variant(ASKED, id=2, method="models.list")],
        "models.list",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_the_fake_core_says_in_one_line_what_a_client_got_wrong(tmp_path: Path, case: str) -> None:
    said, report = WRONG[case]
    (tmp_path / "heard").mkdir()
    head = {"dialogue": "case", "about": "A test."}
    heard = write(tmp_path / "heard", "case", head, ASKED, ANSWERED)
    client = write(tmp_path, "case", head, *said, {"exit": 0})
    with pytest.raises(Mismatch) as mismatch:
        play(client, [*FAKE_CORE, str(heard)])
    first, line = str(mismatch.value).splitlines()
    assert "exit code 70" in first
    assert line.startswith("fake core: case")
    assert report in line


def test_the_fake_core_answers_pings_and_acknowledges_events_between_the_steps(
    tmp_path: Path,
) -> None:
    head = {"dialogue": "case", "about": "A test."}
    event = {"method": "runner.event", "params": {"call_id": "c", "event": {"type": "heartbeat"}}}
    (tmp_path / "fake").mkdir()
    fake = write(tmp_path / "fake", "case", head, {"client": event}, ASKED, ANSWERED)
    request = {"client": {"id": 5, **event}}
    ping = {"client": {"id": 6, "method": "ping"}}
    client = write(
        tmp_path,
        "case",
        head,
        ping,
        {"core": {"id": 6, "result": {"in_flight": 1}}},
        request,
        {"core": {"id": 5, "result": {"emitted": True, "closed": False}}},
        ASKED,
        ANSWERED,
    )
    play(client, [*FAKE_CORE, str(fake)])


def test_a_fake_core_imports_nothing_that_takes_time() -> None:
    script = "import sys; sys.path.insert(0, sys.argv[1]); import fake_core; print(*sys.modules)"
    command = [sys.executable, "-I", "-S", "-c", script, str(CONFORMANCE)]
    modules = subprocess.check_output(command, text=True).split()
    assert "json" in modules
    assert not {"typing", "pathlib", "asyncio", "dataclasses", "subprocess"} & {*modules}
