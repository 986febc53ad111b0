"""Answers in the making, token by token, on no engine."""

import pytest

from car_rpc.wire.worker import Events, FromWorker, Generate
from car_rpc.workers.chat.prompter import Prompt
from car_rpc.workers.generation import Generation
from car_rpc.workers.job import Job
from tests.workers.test_calls import BY_NAME, PARIS, ROME, TWO_CALLS, WEATHER, calls_of, text_of
from tests.workers.test_text import merged


class Letters:
    """A vocabulary of single characters, of which none ends an answer."""

    def ends(self, token: int) -> bool:
        return False

    def piece(self, token: int) -> bytes:
        return chr(token).encode()

    spelling = piece


@pytest.mark.parametrize("parallel", [True, False])
@pytest.mark.parametrize("name", ["harmony", "hermes"])
def test_in_channels_an_answer_ends_with_its_first_call(name: str, parallel: bool) -> None:
    """Also where the vocabulary does not know the token of a call as one that ends an answer."""
    frames: list[FromWorker] = []
    request = Generate(id=1, messages=[], tools=[WEATHER], parallel_tool_calls=parallel)
    prompt = Prompt([0], in_reasoning=False, family=BY_NAME[name])
    job = Job(request, frames.append, lambda _: None)
    generation = Generation(job, request, prompt, Letters(), 1000)
    ended = any(generation.accept(ord(character)) for character in TWO_CALLS[name])
    events = [event for frame in frames if isinstance(frame, Events) for event in frame.events]
    only_one = name == "harmony" or not parallel
    assert calls_of(merged(events)) == ([PARIS] if only_one else [PARIS, ROME])
    assert text_of(events) == ""
    assert ended == only_one
