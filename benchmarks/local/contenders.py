"""Who is measured: the whole process, a bare loop over llama.cpp, and others beside it."""

from __future__ import annotations

import asyncio
import itertools
import json
import sys
import time
from abc import ABC, abstractmethod
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Protocol

from car_rpc.client import CarClient, GenerateStream
from car_rpc.wire.events import ReasoningDelta, TextDelta
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema

ROOT = Path(__file__).parents[2]
PEERS = Path(__file__).parent / "peers"
VENV = ROOT / "benchmarks" / ".venv-local"

OURS = "car-rpc"
BARE = "bare loop"
BARE_NO_FLASH = "bare loop, no flash attention"
COMPLETIONS = "llama-cpp-python"
COMPLETIONS_SERVER = "llama-cpp-python's server"
NODE = "node-llama-cpp"
SERVER = "llama-server"

#: Those that can give an answer a form.
FORMERS = (OURS, COMPLETIONS, COMPLETIONS_SERVER, SERVER, NODE)

#: Those that can be asked while they read a prompt, and told to leave it.
LISTENERS = (OURS, COMPLETIONS_SERVER, SERVER, NODE)

#: The form of an answer, in which nearly every token is one of many that could be.
FORM = {
    "type": "object",
    "properties": {"text": {"type": "string"}},
    "required": ["text"],
    "additionalProperties": False,
}

#: What is said where a contender's process is gone.
ENDED = "a contender ended"

#: Most bytes of a line from a player.
_LINE_BYTES = 1 << 20


class Timing(NamedTuple):
    """When an answer came.

    Attributes:
        first_s: Seconds until its first token.
        whole_s: Seconds until its last.
    """

    first_s: float
    whole_s: float


class Contender(Protocol):
    """Somebody who answers prompts.

    Attributes:
        pid: Its process, which may have children.
    """

    pid: int

    async def ask(
        self, prompts: Sequence[str], tokens: int, *, in_form: bool = False
    ) -> list[Timing]:
        """Answer some prompts at once with so many tokens each, perhaps in the form of FORM."""
        ...

    async def ask_behind(
        self, long: str, short: str, wait_s: float, *, abandon: bool
    ) -> list[Timing]:
        """Answer a short prompt that comes so long after a long one; one of LISTENERS can.

        Args:
            long: A prompt that takes longer to read than that.
            short: What is asked then.
            wait_s: Seconds between them.
            abandon: Whether nobody wants the long one's answer any more when the short one comes.

        Returns:
            When the first token came, of each that was not abandoned, from when it was asked.
        """
        ...


class Direct(ABC):
    """A contender whose requests are coroutines of this process: to cancel one is to abandon it.

    Attributes:
        pid: Its process, which may have children.
    """

    pid: int

    @abstractmethod
    async def answer(self, prompt: str, tokens: int, *, in_form: bool = False) -> Timing:
        """Answer one prompt."""

    async def ask(
        self, prompts: Sequence[str], tokens: int, *, in_form: bool = False
    ) -> list[Timing]:
        """Answer some prompts at once."""
        answers = [self.answer(prompt, tokens, in_form=in_form) for prompt in prompts]
        return list(await asyncio.gather(*answers))

    async def ask_behind(
        self, long: str, short: str, wait_s: float, *, abandon: bool
    ) -> list[Timing]:
        """Answer a short prompt that comes so long after a long one."""
        reading = asyncio.create_task(self.answer(long, 1))
        await asyncio.sleep(wait_s)
        assert not reading.done(), "the long prompt was read too soon to tell"
        if abandon:
            reading.cancel()
            return [await self.answer(short, 1)]
        short_timing = await self.answer(short, 1)
        return [await reading, short_timing]


class Setting(NamedTuple):
    """What all have in common: the model, tokens of context for each request, threads."""

    path: Path
    context: int
    threads: int


class Car(Direct):
    """The process that an app gets, asked by its Python client.

    Args:
        client: The client.
        model: The model's id.
    """

    def __init__(self, client: CarClient, model: str) -> None:
        self._client = client
        self._model = model
        self.pid = client.pid

    async def answer(self, prompt: str, tokens: int, *, in_form: bool = False) -> Timing:
        """Answer one prompt."""
        started, first_s = time.perf_counter(), 0.0
        async with self.stream(prompt, tokens, in_form=in_form) as stream:
            async for event in stream:
                if isinstance(event, TextDelta | ReasoningDelta):
                    first_s = first_s or time.perf_counter() - started
        return Timing(first_s, time.perf_counter() - started)

    def stream(self, prompt: str, tokens: int, *, in_form: bool = False) -> GenerateStream:
        """One answer; to leave its block is to cancel it."""
        params = {"max_tokens": tokens, "temperature": 0, "ignore_eos": True}
        form = {"response_format": {"type": "json_schema", "schema": FORM}} if in_form else {}
        return self._client.stream(model=self._model, prompt=prompt, params=params, **form)


@asynccontextmanager
async def car(setting: Setting) -> AsyncGenerator[Car, None]:
    """Our process, with the model registered."""
    async with AsyncExitStack() as stack:
        state_dir = stack.enter_context(TemporaryDirectory())
        client = await stack.enter_async_context(
            CarClient.start(arguments=["--state-dir", state_dir])
        )
        kind = MlxSource if setting.path.is_dir() else LocalSource
        source = kind(path=str(setting.path), context_length=setting.context)
        model = ModelSchema(id="bench/local:1", source=source, capabilities=["generate"])
        await client.register_model(model)
        yield Car(client, model.id)


class Player:
    """A contender in a process of its own.

    Args:
        process: It, as ``player.py`` says.
    """

    def __init__(self, process: Process) -> None:
        self._process = process
        self.pid = process.pid

    async def ask(
        self, prompts: Sequence[str], tokens: int, *, in_form: bool = False
    ) -> list[Timing]:
        """Answer some prompts at once."""
        times = await self.play(
            prompts=[rendered(prompt) for prompt in prompts],
            tokens=tokens,
            schema=FORM if in_form else None,
        )
        return [Timing(*each) for each in times]

    async def ask_behind(
        self, long: str, short: str, wait_s: float, *, abandon: bool
    ) -> list[Timing]:
        """Answer a short prompt that comes so long after a long one."""
        prompts = [rendered(long), rendered(short)]
        times = await self.play(prompts=prompts, tokens=1, wait_s=wait_s, abandon=abandon)
        return [Timing(*each) for each in times]

    async def play(self, **question: Any) -> Any:
        """Ask a question as it is."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(question).encode() + b"\n")
        return json.loads(await _line(self._process))


@asynccontextmanager
async def player(command: Sequence[str], setting: Setting) -> AsyncGenerator[Player, None]:
    """A contender in a process of its own, see ``player.py``."""
    arguments = [str(setting.path), str(setting.context), str(setting.threads)]
    async with running([*command, *arguments], piped=True) as process:
        while await _line(process) != b"ready\n":  # a library may have something to say before
            pass
        yield Player(process)


@asynccontextmanager
async def running(command: Sequence[str], *, piped: bool = False) -> AsyncGenerator[Process, None]:
    """A process, which is killed in the end; what it says is dropped where there are no pipes."""
    stream = PIPE if piped else DEVNULL
    process = await asyncio.create_subprocess_exec(
        *command, stdin=stream, stdout=stream, stderr=DEVNULL, limit=_LINE_BYTES, cwd=ROOT
    )
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):  # it has ended
            process.kill()
        await process.wait()


async def _line(process: Process) -> bytes:
    assert process.stdout is not None
    line = await process.stdout.readline()
    if not line:
        raise RuntimeError(ENDED)
    return line


def rendered(prompt: str) -> str:
    """What the model's template makes of a prompt."""
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def players(*, own: bool) -> dict[str, list[str]]:
    """The commands of all contenders that read what they are asked from their input."""
    here = [sys.executable, "-m", "benchmarks.local.player"]
    commands = {BARE: [*here, "bare"], BARE_NO_FLASH: [*here, "bare-no-flash"]}
    if not own:
        commands[COMPLETIONS] = [*here, "completions"]
        commands[NODE] = ["node", str(PEERS / "node.mjs")]
    return commands


_counter = itertools.count(1)


def fresh_prompt(tokens: int) -> str:
    """A prompt of so many tokens that begins like no other; a byte is a token."""
    words = f"{next(_counter):06d} " + "all work and no play makes a dull day " * (tokens // 38 + 1)
    return words[:tokens]
