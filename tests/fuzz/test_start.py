"""The first bytes that a process gets, against the same judge: one process for each dialogue."""

from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from hypothesis import assume, given, settings

from car_rpc.protocol.framing import Framing
from tests.conftest import SOAK
from tests.fuzz.oracle import Judge, flatten
from tests.fuzz.strategies import LIMIT, chunks, cuts, dialogues, on_wire
from tests.process.conftest import Core, request

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

EXAMPLES = 500 if SOAK else 6


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
@settings(max_examples=EXAMPLES)
@given(dialogue=dialogues(16), places=cuts)
def test_every_request_gets_exactly_one_response_before_and_behind_initialize(
    framing: Framing, dialogue: list[bytes], places: list[int]
) -> None:
    first, last = on_wire(dialogue[0], framing), dialogue[len(dialogue) // 2 :]
    assume(not first.startswith(b"\xef"))  # half a byte order mark is garbage, a whole one is not
    judge = Judge(LIMIT, framing, exact=False, ready=False)
    for payload in dialogue:
        judge.take(payload)
    with TemporaryDirectory() as directory:
        options = ("--max-message-bytes", str(LIMIT), "--framing", framing, "--drain-ms", "10000")
        core = Core(Path(directory, "state"), *options, framing=framing)
        try:
            data = b"".join(on_wire(each, framing) for each in dialogue)
            data += core.wrap(request("start", "initialize", {"protocol_version": 1}))
            judge.ready = True
            # Behind it, what needs no model; it waits for the engine, and all of it is answered.
            for payload in (b'{"jsonrpc":"2.0","id":1,"method":"ping"}', *last):
                if b"generate" not in payload:
                    judge.take(payload)
                    data += on_wire(payload, framing)
            for chunk in chunks(data, places):
                core.send_raw(chunk)
            core.close_stdin()
            assert core.wait(30) == 0
            messages = [*flatten(core.ended_output())]
            start = core.response("start")
            assert start["result"]["protocol_version"] == 1
            judge.check([message for message in messages if message is not start])
            judge.check_streams(core.messages)
            assert "Traceback" not in core.stderr()
        finally:
            core.kill()
