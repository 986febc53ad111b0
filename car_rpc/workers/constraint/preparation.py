"""Get constraints ready beside the engine, which never waits for them.

Making sense of a vocabulary takes about a second, once, and a large grammar a part of one. Both
happen in one thread of low priority, from the moment that the model is loaded. Only the answers
that need a constraint wait for it: those with a form before they begin, and those that may call
tools where they begin a call. Tools are looked at in another thread, as that takes no vocabulary,
so that an answer which may call them begins after some milliseconds at most.
"""

from __future__ import annotations

import os
import sys
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from car_rpc.errors import unsupported_mode
from car_rpc.workers.job import request_failure

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.wire.worker import Generate
    from car_rpc.workers.constraint.constraint import Plan
    from car_rpc.workers.constraint.spellings import Spellings
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.job import Job
    from car_rpc.workers.text.calls.families import Family

#: How much less than the engine the thread gets of a busy processor (nice(2)).
_NICENESS = 10


class Speller(Protocol):
    """What a constraint needs of a model's vocabulary; also called in another thread."""

    def spellings(self) -> Spellings:
        """How it spells its tokens."""
        ...

    def tokenize(self, text: str, *, special: bool) -> list[int]:
        """Tokens of a text."""
        ...

    def has_token(self, text: str) -> bool:
        """Whether the text is one token of its own."""
        ...


class Constrained(Protocol):
    """An answer that may have to wait for its constraint."""

    @property
    def job(self) -> Job:
        """Where it is answered."""
        ...

    def constrain(self, plan: Plan) -> None:
        """Take the constraint, before the first token or, where it is free, at any later one."""
        ...


class _Entry(NamedTuple):
    """An answer that something is prepared for.

    Attributes:
        job: Where it is answered.
        ready: Is done when that is.
        go_on: Is then called with the result.
    """

    job: Job
    ready: Future[Any]
    go_on: Callable[[Any], None]


class Preparation:
    """The constraints of one model's answers.

    Args:
        vocab: The model's vocabulary, which shows the family's markers.
        family: How the model writes.
        backend: Name of the engine, for errors.
    """

    def __init__(self, vocab: Speller, family: Family, backend: str) -> None:
        self._vocab = vocab
        self._family = family
        self._backend = backend
        self._pool = ThreadPoolExecutor(1, "constraints", _yield_to_the_engine)
        self._vocabulary: Future[GuideVocabulary] = self._pool.submit(self._read_vocabulary)
        self._tools = ThreadPoolExecutor(1, "tools")
        self._waiting: list[_Entry] = []

    def add(self, generation: Constrained, request: Generate, start: Callable[[], None]) -> None:
        """Start an answer, at once where it has no tools and no form.

        Else its tools are looked at first, and then it waits for the constraint that it must have.
        One that is free until it calls a tool takes its constraint when that is ready; what begins
        a call before goes no further until then (:class:`~car_rpc.workers.generation.Generation`).
        """
        if request.tools:
            looked = self._tools.submit(self._check_tools, request)
            self._wait(generation, looked, lambda _: self._prepare(generation, request, start))
        else:
            self._prepare(generation, request, start)

    def step(self) -> None:
        """Go on with the answers for which something is ready."""
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            if entry.job.cancelled.is_set():
                entry.ready.cancel()
            elif entry.ready.done():
                _go_on(entry)
            else:
                self._waiting.append(entry)

    def reset(self) -> None:
        """Forget the answers that wait."""
        self._waiting.clear()

    def _prepare(
        self, generation: Constrained, request: Generate, start: Callable[[], None]
    ) -> None:
        must_wait = request.response_format is not None or bool(request.must_call)
        if not must_wait:
            start()

        def constrain(plan: Plan) -> None:
            generation.constrain(plan)
            if must_wait:
                start()

        if must_wait or request.tools:
            plan = self._pool.submit(self._plan, request, self._think_token(request))
            self._wait(generation, plan, constrain)

    def _wait(
        self, generation: Constrained, ready: Future[Any], go_on: Callable[[Any], None]
    ) -> None:
        self._waiting.append(_Entry(generation.job, ready, go_on))
        ready.add_done_callback(lambda _: generation.job.wake())

    def _read_vocabulary(self) -> GuideVocabulary:
        make = import_module("car_rpc.workers.constraint.vocabulary").GuideVocabulary
        plain = partial(self._vocab.tokenize, special=False)
        vocabulary: GuideVocabulary = make(self._vocab.spellings(), plain)
        return vocabulary

    def _check_tools(self, request: Generate) -> None:
        check = self._imported("tools").check_tools
        check(request, self._family, self._backend)

    def _plan(self, request: Generate, think_token: int | None) -> Plan:
        make_plan = self._imported("plan").make_plan
        vocabulary = self._vocabulary.result()
        plan: Plan = make_plan(request, self._family, vocabulary, self._backend)
        return plan._replace(think_token=think_token)

    def _imported(self, module: str) -> Any:
        """A module that needs llguidance, which takes a while to import."""
        try:
            return import_module(f"car_rpc.workers.constraint.{module}")
        except ImportError as error:
            reason = f"the library {error.name} is not installed; install the engine's extra anew"
            raise unsupported_mode("structured-output", self._backend, reason) from error

    def _think_token(self, request: Generate) -> int | None:
        """The token that may begin an answer with reasoning."""
        opening = self._family.think[0]
        if request.params.thinking == "off" or not self._vocab.has_token(opening):
            return None
        (token,) = self._vocab.tokenize(opening, special=True)
        return token


def _go_on(entry: _Entry) -> None:
    try:
        entry.go_on(entry.ready.result())
    except Exception as error:  # noqa: BLE001 - one bad form must not end the others' answers
        entry.job.fail(request_failure(error))
        entry.job.cancelled.set()  # what has begun of it is dropped


def _yield_to_the_engine() -> None:
    if sys.platform == "linux":  # where threads have priorities of their own
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)
