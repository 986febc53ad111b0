"""The protocol's state machine, against a judge of its own, for bytes of any kind."""

import pytest
from hypothesis import given

from car_rpc.protocol.framing import Framing
from tests.fuzz.peer import judge_dialogue
from tests.fuzz.strategies import cuts, dialogues


@pytest.mark.parametrize("framing", ["ndjson", "lsp"])
@given(dialogues(8), cuts)
def test_every_request_gets_exactly_one_response(
    framing: Framing, dialogue: list[bytes], places: list[int]
) -> None:
    judge_dialogue(framing, dialogue, places)
