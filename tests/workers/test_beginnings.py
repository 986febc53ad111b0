"""What every engine for language models keeps of earlier prompts, inside this process."""

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.wire.content import Message
from car_rpc.wire.worker import Generate
from car_rpc.workers.runtime import Engine
from tests.workers.conftest import Kind, Load
from tests.workers.test_engines import LONG, Asked, chat, run


@pytest.fixture(scope="module")
def chunk(kind: Kind) -> int:
    """Tokens that the engine reads in one go."""
    name = "generation" if kind.engine == "llama_cpp" else "model"
    size: int = import_module(f"car_rpc.workers.{kind.engine}.{name}").PREFILL_CHUNK
    return size


@pytest.fixture(scope="module")
def loaded(load: Load, model: Callable[..., Path]) -> Engine:
    return load(model())


@pytest.fixture
def engine(loaded: Engine) -> Engine:
    """An engine that remembers nothing."""
    loaded.reset()
    return loaded


def keeping(content: str = "hello", **params: Any) -> Generate:
    """A request that may use what others left, and leave something to others."""
    return msgspec.structs.replace(chat(content, **params), prefix_cache=True)


def cached(asked: Asked) -> int:
    count = asked.usage.cache_read_tokens
    return count if isinstance(count, int) else 0


def test_a_prompt_that_was_read_before_is_not_read_again(engine: Engine) -> None:
    (alone,) = run(engine, chat(LONG))
    first, second, third = (run(engine, keeping(LONG))[0] for _ in range(3))
    assert first.text == second.text == third.text == alone.text
    assert cached(first) == 0
    assert cached(second) == cached(third) == second.prompt_tokens - 1


def test_a_conversation_that_goes_on_is_read_from_where_it_ended(engine: Engine) -> None:
    (asked,) = run(engine, keeping(LONG))
    turns = [
        Message(role="user", content=LONG),
        Message(role="assistant", content=asked.text),
        Message(role="user", content="more"),
    ]
    (alone,) = run(engine, msgspec.structs.replace(chat(), messages=turns))
    (after,) = run(engine, msgspec.structs.replace(keeping(), messages=turns))
    assert cached(after) >= asked.prompt_tokens
    assert after.text == alone.text


def test_prompts_share_what_they_begin_with(engine: Engine) -> None:
    run(engine, keeping(LONG + "one"))
    (alone,) = run(engine, chat(LONG + "two"))
    (asked,) = run(engine, keeping(LONG + "two"))
    assert len(LONG) < cached(asked) < asked.prompt_tokens
    assert asked.text == alone.text


def test_a_prompt_that_another_is_about_to_read_is_read_once(engine: Engine, chunk: int) -> None:
    contents = ["s" * 400 + text for text in ("one", "two", "three")]
    alone = [run(engine, chat(content))[0].text for content in contents]
    asked = run(engine, *map(keeping, contents))
    assert [each.text for each in asked] == alone
    first, *others = map(cached, asked)
    assert first == 0
    assert min(others) >= 256


def test_what_is_unlike_does_not_wait_for_a_long_prompt(engine: Engine) -> None:
    long = Asked(engine, keeping("a" * 480, max_tokens=1))
    short = Asked(engine, keeping("b", max_tokens=1))
    while short.answer is None:
        engine.step()
    assert long.answer is None
    run(engine)


def test_a_request_may_want_nothing_of_others_and_leave_nothing(engine: Engine) -> None:
    run(engine, keeping(LONG))
    assert cached(run(engine, chat(LONG))[0]) == 0
    engine.reset()
    run(engine, chat(LONG))
    assert cached(run(engine, keeping(LONG))[0]) == 0


def test_requests_of_one_beginning_run_together(engine: Engine) -> None:
    contents = [LONG + letter for letter in "abcd"] + ["short"]
    alone = [run(engine, chat(content))[0].text for content in contents]
    run(engine, keeping(LONG))
    together = run(engine, *map(keeping, contents))
    assert [asked.text for asked in together] == alone
    assert all(cached(asked) > len(LONG) for asked in together[:4])


def test_a_cancelled_prompt_leaves_what_was_read_of_it(engine: Engine, chunk: int) -> None:
    asked = Asked(engine, keeping("a" * 480))
    engine.step()
    asked.job.cancel()
    assert not engine.step()
    (again,) = run(engine, keeping("a" * 480))
    assert cached(again) == chunk


@pytest.mark.parametrize("steps", [1, 2, 6])
def test_a_pause_changes_nothing_wherever_it_comes(engine: Engine, steps: int) -> None:
    request = chat("a" * 480, temperature=1.0, seed=5, ignore_eos=True)
    (expected,) = run(engine, request)
    asked = Asked(engine, request)
    for _ in range(steps):
        engine.step()
    asked.job.pause()
    assert not engine.step()
    run(engine, chat("other"))
    asked.job.resume()
    run(engine)
    assert asked.events == expected.events


def test_more_conversations_than_answers_at_once_are_all_kept(engine: Engine) -> None:
    texts = [letter * 300 for letter in "abcdefghijkl"]
    for text in texts:
        run(engine, keeping(text))
    for text in texts:
        (again,) = run(engine, keeping(text))
        assert cached(again) == again.prompt_tokens - 1
