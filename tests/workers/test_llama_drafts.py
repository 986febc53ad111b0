"""Answers with drafts are those without, token by token: a model whose numbers are exact.

A real model's numbers depend on the sizes of its batches in their last digits, which is why the
mechanics are proven here.
"""

import random
from collections.abc import Sequence
from typing import Any, NamedTuple

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent, UsageEvent
from car_rpc.wire.worker import Events, Failed, Generate, Reply, SamplingParams
from car_rpc.workers.job import Job
from car_rpc.workers.text.calls.families import HERMES, Family

pytest.importorskip("llama_cpp")

from car_rpc.workers.chat.prompter import Prompt
from car_rpc.workers.llama_cpp.context import DecodeError, Row
from car_rpc.workers.llama_cpp.generation import LlamaGeneration
from car_rpc.workers.llama_cpp.generator import Generator
from car_rpc.workers.llama_cpp.speculation import MAX_ROWS, Speculator
from car_rpc.workers.speculation.lookup import Lookup
from car_rpc.workers.speculation.pace import LENGTHS, MAX_LOSS, SHARE

pytestmark = pytest.mark.llama

ROOM = 300
END = 0


class Words:
    """A vocabulary of letters and an end."""

    size = 6

    def ends(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return b"" if token == END else bytes([96 + token])

    spelling = piece


class Machine:
    """A context whose model looks at the last two tokens, and a clock that runs while it decodes.

    Args:
        sharpness: How sure it is; more makes a text that repeats itself.
    """

    def __init__(self, sharpness: float = 2.0, *, can_cut: bool = True) -> None:
        self.room = ROOM
        self.can_cut = can_cut
        self.can_move = False
        self.memory: dict[int, list[int]] = {}
        self.sizes: list[int] = []
        self.fails = False
        self.now_s = 0.0
        self._sharpness = sharpness
        self._logits: dict[int, Any] = {}

    def close(self) -> None:
        """Another one begins, which is the same."""

    def decode(self, rows: Sequence[Row], owner: Job | None = None) -> None:
        assert sum(row.output for row in rows) <= MAX_ROWS
        if self.fails:
            raise DecodeError(1)
        self.sizes.append(len(rows))
        self.now_s += 0.02 * (1 + 0.2 * (len(rows) - 1))
        self._logits = {}
        for index, row in enumerate(rows):
            held = self.memory.setdefault(row.sequence, [])
            assert row.position == len(held)
            held.append(row.token)
            if row.output:
                rng = np.random.default_rng(held[-2:])
                numbers = rng.normal(0, self._sharpness, Words.size).astype(np.float32)
                numbers[END] -= 2
                self._logits[index] = numbers

    def logits(self, index: int, size: int) -> Any:
        return self._logits[index]

    def cut(self, sequence: int, length: int) -> bool:
        del self.memory.setdefault(sequence, [])[length:]
        return True

    def drop(self, sequence: int) -> None:
        self.memory[sequence] = []

    def shortest(self, sequence: int) -> int:
        return 0

    def state_bytes(self, sequence: int) -> int:
        return 0

    def save(self, sequence: int) -> Any:
        return np.array(self.memory.get(sequence, []), np.int32)

    def restore(self, sequence: int, state: Any) -> bool:
        self.memory[sequence] = state.tolist()
        return True


class Guesses:
    """A drafter that is right as often as it is told."""

    unread = 0

    def __init__(self, seed: int, words: int = Words.size) -> None:
        self._rng = random.Random(seed)
        self._words = words

    def begin(self) -> None:
        pass

    def follow(self, read: Sequence[int], pending: Sequence[int]) -> int:
        return 0

    def draft(self, count: int) -> list[int]:
        return [self._rng.randrange(self._words) for _ in range(self._rng.randint(0, count))]


class Asked(NamedTuple):
    """An answer in the making."""

    generation: LlamaGeneration
    frames: list[Any]

    @property
    def events(self) -> list[StreamEvent]:
        return [e for frame in self.frames if isinstance(frame, Events) for e in frame.events]

    @property
    def usage(self) -> UsageEvent:
        (usage,) = [event for event in self.events if isinstance(event, UsageEvent)]
        return usage

    def said(self) -> list[Any]:
        """Everything, the counts of drafts apart."""
        frames = [each for each in self.frames if isinstance(each, Events)]
        counts = {"draft_tokens": msgspec.UNSET, "accepted_draft_tokens": msgspec.UNSET}
        return [
            [
                msgspec.structs.replace(e, **counts) if isinstance(e, UsageEvent) else e
                for e in self.events
            ],
            [each for frame in frames for each in frame.logprobs],
            self.frames[-1],
        ]


def ask(
    generator: Generator,
    tokens: Sequence[int],
    family: Family = HERMES,
    tools: Sequence[dict[str, Any]] = (),
    **params: Any,
) -> Asked:
    frames: list[Any] = []
    request = Generate(
        id=1,
        messages=[Message(role="user", content="x")],
        params=SamplingParams(**{"temperature": 0.0, **params}),
        tools=list(tools),
    )
    job = Job(request, frames.append, lambda _: None)
    prompt = Prompt(tokens=[*tokens], family=family, in_reasoning=False, answer_tokens=0)
    words: Any = Words()
    generation = LlamaGeneration(job, request, prompt, words, ROOM)
    generator.add(generation)
    return Asked(generation, frames)


def generator_of(machine: Machine, drafter: Any = None, *, eager: bool = False) -> Generator:
    """A generator of that machine. An eager one drafts whatever that costs."""

    def make() -> Speculator:
        speculator = Speculator(drafter, clock=lambda: machine.now_s)
        if eager:
            lengths = iter(LENGTHS * 1000)
            speculator._pace.plain(0.02)
            speculator._pace.length = lambda kind, most, unread=0: min(next(lengths), most)
        return speculator

    context: Any = machine
    return Generator(
        lambda slots, room: context,
        lambda _: 2,
        ROOM,
        ROOM,
        lambda room: room,
        0,
        make if drafter else None,
    )


def finish(generator: Generator) -> None:
    while generator.step():
        pass


TOKENS = st.integers(1, Words.size - 1)
PROMPTS = st.lists(TOKENS, min_size=1, max_size=40)
PARAMS = st.fixed_dictionaries(
    {"temperature": st.sampled_from([0.0, 0.7, 1.5]), "seed": st.integers(0, 5)},
    optional={
        "max_tokens": st.integers(1, 60),
        "stop": st.lists(st.text("abcde", min_size=1, max_size=3), max_size=2),
        "repeat_penalty": st.just(1.3),
        "frequency_penalty": st.just(0.2),
        "presence_penalty": st.just(0.5),
        "top_k": st.just(3),
        "min_p": st.just(0.1),
        "logprobs": st.just(2),
        "ignore_eos": st.just(True),
    },
)


@given(prompt=PROMPTS, params=PARAMS, seed=st.integers(0, 3), looks_up=st.booleans())
def test_an_answer_with_drafts_is_the_one_without(
    prompt: list[int], params: dict[str, Any], seed: int, looks_up: bool
) -> None:
    plain = generator_of(Machine())
    expected = ask(plain, prompt, **params)
    finish(plain)
    machine = Machine()
    generator = generator_of(machine, Lookup(ROOM) if looks_up else Guesses(seed), eager=True)
    asked = ask(generator, prompt, **params)
    finish(generator)
    assert asked.said() == expected.said()
    assert asked.frames[-1] == Reply(id=1)
    held = machine.memory[asked.generation.sequence.number]
    assert held == asked.generation.sequence.tokens
    drafted, right = (getattr(asked.usage, name) or 0 for name in COUNTS)
    assert 0 <= right <= drafted
    assert right < (asked.usage.completion_tokens or 0)


COUNTS = ("draft_tokens", "accepted_draft_tokens")


class Thrice:
    """What holds calls to this: they begin with an e, and two tokens follow that are no a."""

    demands = lost = complete = False

    def __init__(self) -> None:
        self._left = 0

    def constraint(self, *, in_reasoning: bool, so_far: str | None) -> "Thrice":
        return Thrice()

    def accept(self, token: int, segments: Any) -> None:
        begins = segments.entered is not None and segments.in_call
        self._left = 3 if begins else max(self._left - 1, 0)

    def forced(self) -> list[int]:
        return [5] if self._left == 3 else []

    def allowed(self) -> Any:
        return np.arange(Words.size) > 1 if self._left else None

    def allows(self, token: int) -> bool:
        return not self._left or token > 1

    def verdict(self, text: str) -> None:
        return None


@given(prompt=PROMPTS, params=PARAMS, seed=st.integers(0, 3))
def test_a_call_that_begins_within_a_draft_waits_for_what_it_is_held_to(
    prompt: list[int], params: dict[str, Any], seed: int
) -> None:
    family = HERMES._replace(opening="b")
    tools = [{"type": "function", "function": {"name": "f"}}]
    plan: Any = Thrice()
    plain = generator_of(Machine())
    expected = ask(plain, prompt, family, tools, **params)
    expected.generation.constrain(plan)
    finish(plain)
    machine = Machine()
    generator = generator_of(machine, Guesses(seed), eager=True)
    asked = ask(generator, prompt, family, tools, **params)
    finish(generator)
    if asked.generation.waits:
        assert machine.memory[0] == asked.generation.sequence.tokens
        steps = len(machine.sizes)
        assert not generator.step()
        assert len(machine.sizes) == steps
        asked.generation.constrain(plan)
        finish(generator)
    assert asked.said() == expected.said()


def test_a_text_that_repeats_itself_takes_fewer_steps() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM))
    asked = ask(generator, [1, 2, 3], max_tokens=200, ignore_eos=True)
    finish(generator)
    assert len(machine.sizes) < 60
    assert asked.usage.completion_tokens == 200
    drafted, right = (getattr(asked.usage, name) for name in COUNTS)
    assert 100 < right <= drafted


def test_a_text_that_does_not_takes_no_longer_than_a_share_more() -> None:
    """Of five letters the last two always stood before, and say nothing."""
    machine = Machine(sharpness=0.0)
    generator = generator_of(machine, Lookup(ROOM))
    tokens = 0
    for seed in range(20):
        asked = ask(generator, [1], temperature=1.0, seed=seed, max_tokens=200, ignore_eos=True)
        finish(generator)
        tokens += asked.usage.completion_tokens or 0
    assert any(size > 1 for size in machine.sizes)
    assert machine.now_s / 0.02 < tokens * (1 + SHARE) + 2 * MAX_LOSS


def test_nothing_is_drafted_while_several_answers_run() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    asked = [ask(generator, [1, 2, 3], max_tokens=100, ignore_eos=True) for _ in range(2)]
    finish(generator)
    assert max(machine.sizes) <= 3  # the prompts
    assert [each.usage.draft_tokens for each in asked] == [msgspec.UNSET] * 2


def test_nothing_is_drafted_where_what_is_wrong_cannot_be_forgotten_any_more() -> None:
    """As in a context that has grown beyond a window, which is forgotten from there on."""
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    ask(generator, [1, 2, 3], max_tokens=100, ignore_eos=True)
    for _ in range(12):
        generator.step()
    assert max(machine.sizes[-5:]) > 1
    before, machine.can_cut = len(machine.sizes), False
    finish(generator)
    assert set(machine.sizes[before:]) == {1}


def test_nothing_is_drafted_while_another_prompt_is_read() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    ask(generator, [1, 2, 3], max_tokens=100, ignore_eos=True)
    for _ in range(20):
        generator.step()
    before = len(machine.sizes)
    ask(generator, [4] * 280, max_tokens=1)
    generator.step()
    generator.step()
    assert [size for size in machine.sizes[before:] if 1 < size < 24] == []


def test_a_paused_answer_does_not_keep_another_from_drafts() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    paused = ask(generator, [1, 2, 3], max_tokens=100, ignore_eos=True)
    generator.step()
    paused.generation.job.pause()
    other = ask(generator, [1, 2], max_tokens=100, ignore_eos=True)
    finish(generator)
    assert other.usage.accepted_draft_tokens
    paused.generation.job.resume()
    finish(generator)
    assert paused.usage.accepted_draft_tokens


def test_a_cancelled_answer_leaves_nothing_that_it_has_not_said() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    asked = ask(generator, [1, 2, 3], ignore_eos=True)
    for _ in range(12):
        generator.step()
    asked.generation.job.cancel()
    finish(generator)
    assert isinstance(asked.frames[-1], Failed)
    sequence = asked.generation.sequence
    assert machine.memory[sequence.number] == sequence.tokens
    held = len(sequence.tokens)
    again = ask(generator, [*sequence.tokens, 5], max_tokens=5)
    finish(generator)
    assert again.usage.cache_read_tokens == held


def test_a_batch_that_fails_ends_the_answer_alone() -> None:
    machine = Machine(sharpness=9.0)
    generator = generator_of(machine, Lookup(ROOM), eager=True)
    asked = ask(generator, [1, 2, 3], ignore_eos=True)
    for _ in range(12):
        generator.step()
    machine.fails = True
    finish(generator)
    assert isinstance(asked.frames[-1], Failed)
    machine.fails = False
    other = ask(generator, [1, 2, 3], max_tokens=5, ignore_eos=True)
    finish(generator)
    assert other.usage.completion_tokens == 5


def test_an_answer_to_an_image_gets_no_drafts() -> None:
    """What stands for it among the tokens is none, and nobody may read it as one."""
    generator = generator_of(Machine(sharpness=9.0), Lookup(ROOM), eager=True)
    asked = ask(generator, [1, 2, 3], max_tokens=100, ignore_eos=True)
    asked.generation.has_media = True
    finish(generator)
    assert asked.usage.draft_tokens is msgspec.UNSET


def test_a_memory_that_cannot_forget_gets_no_drafts() -> None:
    generator = generator_of(Machine(can_cut=False), Lookup(ROOM))
    assert generator.speculator is None


def test_the_log_tells_how_many_drafts_were_right(capfd: pytest.CaptureFixture[str]) -> None:
    generator = generator_of(Machine(sharpness=9.0), Lookup(ROOM), eager=True)
    asked = ask(generator, [1, 2, 3], max_tokens=50, ignore_eos=True)
    finish(generator)
    usage = asked.usage
    told = f"request 1: {usage.accepted_draft_tokens} of {usage.draft_tokens} drafted tokens"
    assert told in capfd.readouterr().err
