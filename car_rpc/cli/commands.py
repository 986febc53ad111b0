"""What the commands other than ``serve`` do. Most of them start it as an app would.

What takes long to import, and is for one command alone, is imported by that command.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import msgspec

from car_rpc.cli.answer import Answer
from car_rpc.cli.log import log
from car_rpc.cli.remedies import remedies
from car_rpc.cli.replay import replay
from car_rpc.cli.start import FAILED, INTERRUPTED, USAGE, start
from car_rpc.cli.tables import explained, is_listed, models_table, refusals
from car_rpc.cli.weights import pull, remove
from car_rpc.client import SERVE, ProcessEnded, RemoteError
from car_rpc.config import car_home
from car_rpc.errors import CarError

if TYPE_CHECKING:
    from car_rpc.host.configuration import Configuration


def run(options: argparse.Namespace) -> int:
    """Run the command that was asked for; returns the exit code."""
    try:
        return anyio.run(partial(COMMANDS[options.command], options))
    except (RemoteError, ProcessEnded) as error:
        print(f"car-rpc: {error}", file=sys.stderr)
        return FAILED
    except BrokenPipeError:
        # Whoever read our output has gone, as `head` does; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except KeyboardInterrupt:
        return INTERRUPTED


async def generate(options: argparse.Namespace) -> int:
    """Stream an answer to the terminal."""
    params = {
        name: value
        for name in ("max_tokens", "temperature", "thinking")
        if (value := getattr(options, name)) is not None
    }
    request: dict[str, Any] = {"prompt": _prompt(options), "params": params}
    if options.model:
        request["model"] = options.model
    if options.system:
        request["context"] = options.system
    answer = Answer()
    async with start(options) as car, car.stream(**request) as stream:
        async for event in stream:
            answer.show(event)
        answer.end()
        result = await stream.result()
        print(f"({result.model_used}, {result.latency_ms:.0f} ms)", file=sys.stderr)
    return 0


async def models(options: argparse.Namespace) -> int:
    """List the models, or do what the word behind it says."""
    if options.models_command is not None:
        return await _MODELS_COMMANDS[options.models_command](options)
    async with start(options) as car:
        known = await car.models()
    listed = [model for model in known if options.all or is_listed(model)]
    print("\n".join(models_table(listed)))
    for line in remedies(listed):
        print(line, file=sys.stderr)
    if len(listed) < len(known):
        print(
            f"({len(known) - len(listed)} more are in the catalog and not here: --all)",
            file=sys.stderr,
        )
    return 0


async def _explain(options: argparse.Namespace) -> int:
    request: dict[str, Any] = {"prompt": _prompt(options)}
    if options.model:
        request["model"] = options.model
    async with start(options) as car:
        try:
            decision = await car.route(**request)
        except RemoteError as error:
            print("\n".join(refusals(error.data, everyone=options.all)), file=sys.stderr)
            raise
    if options.json:
        print(msgspec.json.format(msgspec.json.encode(decision)).decode())
    else:
        print("\n".join(explained(decision, everyone=options.all)))
    return 0


async def doctor(options: argparse.Namespace) -> int:
    """Say what is installed and what is missing."""
    from car_rpc.cli.doctor import Heard, report  # noqa: PLC0415 - see above
    from car_rpc.cli.wire_check import check_wire  # noqa: PLC0415 - see above
    from car_rpc.registry.machine import has_apple_gpu  # noqa: PLC0415 - see above

    wrong = _wrong_configuration(options)
    if wrong is not None:
        print(f"configuration\n  {wrong}\n  Without it:")
        options.config = Path(os.devnull)
    async with start(options) as car:
        if car.server is None:
            return FAILED
        found = await car.search_models(limit=1000)
        state_dir = options.state_dir or car_home()
        models_dir = options.models_dir or car_home() / "models"
        known, health = await car.models(), await car.model_health()
        heard = Heard(car.server, known, found, health)
        print("\n".join(report(heard, state_dir, models_dir, mlx_first=has_apple_gpu())))
    with tempfile.TemporaryDirectory() as state_dir:
        wire = await check_wire([*SERVE, "--state-dir", state_dir, "--log-level", "error"])
    print(f"wire\n  {wire}")
    return 0 if wire.startswith("ok") and wrong is None else FAILED


def _wrong_configuration(options: argparse.Namespace) -> CarError | None:
    try:
        _configuration(options)
    except CarError as error:
        return error
    return None


def _configuration(options: argparse.Namespace) -> tuple[Path, Configuration]:
    from car_rpc.host.configuration import FILE_NAME, load  # noqa: PLC0415 - see above

    path = options.config or (options.state_dir or car_home()) / FILE_NAME
    return path, load(path, os.environ, needed=options.config is not None)


async def call(options: argparse.Namespace) -> int:
    """Call any method and print its result."""
    try:
        params = json.loads(options.params)
    except ValueError as error:
        print(f"car-rpc: the parameters are not JSON: {error}", file=sys.stderr)
        return USAGE
    async with start(options) as car:
        result = await car.call(options.method, params)
    print(json.dumps(result, indent=2, ensure_ascii=False))
    return 0


async def schema(_: argparse.Namespace) -> int:
    """Print the specification that this very build implements."""
    from car_rpc.spec import documents  # noqa: PLC0415 - see above

    print(json.dumps(documents(), indent=2, ensure_ascii=False))
    return 0


async def config(options: argparse.Namespace) -> int:
    """Show every knob."""
    from car_rpc.cli.knobs import described  # noqa: PLC0415 - see above

    try:
        path, configuration = _configuration(options)
    except CarError as error:
        print(f"car-rpc: {error}", file=sys.stderr)
        return FAILED
    print("\n".join(described(path, configuration)))
    return 0


_MODELS_COMMANDS: dict[str, Callable[[argparse.Namespace], Awaitable[int]]] = {
    "explain": _explain,
    "pull": pull,
    "remove": remove,
}

COMMANDS: dict[str, Callable[[argparse.Namespace], Awaitable[int]]] = {
    "generate": generate,
    "models": models,
    "doctor": doctor,
    "config": config,
    "log": log,
    "replay": replay,
    "call": call,
    "schema": schema,
}


def _prompt(options: argparse.Namespace) -> str:
    return sys.stdin.read() if options.prompt == "-" else str(options.prompt)
