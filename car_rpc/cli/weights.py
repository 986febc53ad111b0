"""``car-rpc models pull`` and ``car-rpc models remove``."""

from __future__ import annotations

import argparse
import sys

from car_rpc.cli.start import start
from car_rpc.cli.tables import gib
from car_rpc.wire.lifecycle import ProgressValue

_MIB = 2**20
_GIB = 2**30


async def pull(options: argparse.Namespace) -> int:
    """Download weights and show how far that is; Ctrl-C keeps what has come."""
    try:
        async with start(options) as car:
            result = await car.pull_model(
                options.model,
                from_path=None if options.from_path is None else str(options.from_path.absolute()),
                on_progress=_show,
            )
    finally:
        if sys.stderr.isatty():
            print(file=sys.stderr)
    if result.downloaded_bytes:
        print(f"{result.model.id}: {amount(result.downloaded_bytes)} came")
    else:
        print(f"{result.model.id}: all of it was here")
    return 0


async def remove(options: argparse.Namespace) -> int:
    """Delete weights and say what that freed."""
    async with start(options) as car:
        result = await car.remove_model(options.model)
    for path in result.removed:
        print(f"removed {path}")
    for model_id in result.also_used_by:
        print(f"{model_id} used the same files")
    print(f"{amount(result.freed_bytes)} freed")
    return 0


def amount(count: int) -> str:
    """A number of bytes for people."""
    return gib(count) if count >= _GIB else f"{count / _MIB:.1f} MiB"


def _show(value: ProgressValue) -> None:
    """A line that is written over on a terminal; a log file gets none of it."""
    if isinstance(value.done_bytes, int) and sys.stderr.isatty():
        total = f" of {amount(value.total_bytes)}" if isinstance(value.total_bytes, int) else ""
        percent = f"  {value.percent:.0f} %" if isinstance(value.percent, float) else ""
        line = f"{amount(value.done_bytes)}{total}{percent}"
        print(f"\r{line:40}", end="", flush=True, file=sys.stderr)
