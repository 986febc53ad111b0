"""The real process, against the same judge: many dialogues, one process per framing."""

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings

from tests.conftest import SOAK
from tests.fuzz.oracle import STALL, Judge, flatten
from tests.fuzz.strategies import LIMIT, chunks, cuts, dialogues, on_wire
from tests.process.conftest import WAIT_S, Core

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

#: Dialogues per framing; most take 10 ms.
EXAMPLES = 5000 if SOAK else 150


@pytest.fixture(scope="module", params=["ndjson", "lsp"])
def core(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Core]:
    state_dir = tmp_path_factory.mktemp("fuzz") / "state"
    core = Core(state_dir, "--max-message-bytes", str(LIMIT), framing=request.param)
    core.initialize()
    core.fake("t/stall:1", {"stall": True})
    stalled = core.ask("generate", STALL)
    core.cancel(stalled)
    assert core.response(stalled)["error"]["data"]["kind"] == "cancelled"
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()
    assert "Traceback" not in core.stderr()


@settings(max_examples=EXAMPLES)
@given(dialogue=dialogues(16), places=cuts)
def test_every_request_gets_exactly_one_response(
    core: Core, dialogue: list[bytes], places: list[int]
) -> None:
    since = len(core.messages)
    judge = Judge(LIMIT, core.framing, exact=False)
    for payload in dialogue:
        judge.take(payload)
    for chunk in chunks(b"".join(on_wire(each, core.framing) for each in dialogue), places):
        core.send_raw(chunk)
    for request_id in judge.end():
        core.cancel(request_id)
    answers = wait_for_answers(core, since, len(judge.due))
    ping = core.response(core.ask("ping"), since + len(answers))
    judge.check([*flatten(m for m in core.messages[since:] if m is not ping)])
    judge.check_streams(core.messages[since:])


def wait_for_answers(core: Core, since: int, count: int) -> list[Any]:
    """The messages from an index on, when so many responses are among them."""

    def complete() -> bool:
        return sum(1 for _ in flatten(core.messages[since:])) >= count

    with core._changed:
        assert core._changed.wait_for(complete, WAIT_S), (
            f"{count} due, {core.messages[since:]} came"
        )
    return core.messages[since:]
