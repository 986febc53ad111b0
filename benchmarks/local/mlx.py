"""The second group: folders of MLX weights, beside mlx-lm's own loops and its server."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Generator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.local import measure
from benchmarks.local.contenders import OURS, Car, Contender, Setting, car, player
from benchmarks.local.report import Bar, Round, bars, table
from benchmarks.local.servers import MLX, server
from car_rpc.registry.builtin import DEMO_CONTEXT_LENGTH, DEMO_DIR

BARE = "bare mlx-lm"
SERVER = "mlx_lm.server"
TITLES = (OURS, BARE, SERVER)

#: What starts the bare loop.
LOOP = (sys.executable, "-m", "benchmarks.local.player", "mlx")

#: Tokens of an answer, and of each of several.
ALONE, TOGETHER = 256, 128

BARS = (
    Bar(f"{ALONE} tokens, tokens/s", BARE, 0.95, at_least=True),
    Bar("4 streams, tokens/s", BARE, 0.95, at_least=True),
    Bar("8 streams, tokens/s", BARE, 0.95, at_least=True),
    Bar("first token, known prompt, less a step", None, 10, at_least=False),
    Bar("cancel, p95", None, 50, at_least=False),
)

TEXT = """## MLX

The same for a folder of MLX weights: the demo model that ships, of 6 layers of width 256, where no
token ends an answer; the long prompt has 700 tokens. *bare mlx-lm* is its `generate_step` for one
prompt and its `BatchGenerator` for several, in single precision as car-rpc computes on a processor;
mlx_lm.server is asked over HTTP and takes the weights as they are. *Short behind long* and *cancel*
are here behind the prompt of 700 tokens. {where}

{table}

{bars}
"""


async def run(rounds: int, *, own: bool) -> list[Round]:
    """Measure every contender in every round; nothing without mlx-lm."""
    if importlib.util.find_spec("mlx_lm") is None:
        return []
    figures: list[Round] = [{} for _ in range(rounds)]
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(endless_folder())
        setting = Setting(folder, DEMO_CONTEXT_LENGTH, 1)
        contenders: dict[str, Contender] = {
            OURS: await stack.enter_async_context(car(setting)),
            BARE: await stack.enter_async_context(player(LOOP, setting)),
        }
        if not own:
            contenders[SERVER] = await stack.enter_async_context(server(MLX, setting))
        for contender in contenders.values():
            await measure.decode(contender, 2)  # warms it up
        for number, one_round in enumerate(figures):
            for title, contender in contenders.items():
                one_round[title] = await of_all(title, contender)
                print(f"{number + 1}/{rounds} mlx {title}", file=sys.stderr)
    return figures


async def of_all(title: str, contender: Contender) -> measure.Figures:
    """What is measured of every contender, and of those that hear of more than one prompt."""
    figures = {f"{ALONE} tokens, tokens/s": await measure.decode(contender, ALONE)}
    for count in (4, 8):
        figures |= await measure.streams(contender, count, TOGETHER)
    figures |= await measure.first_token(contender)
    if title != BARE:
        figures |= await measure.behind(contender, measure.LONG)
    if isinstance(contender, Car):
        figures |= await measure.cancel(contender, measure.LONG)
    return figures


def section(rounds: list[Round]) -> str:
    """What is written of it."""
    if not rounds:
        return "## MLX\n\nmlx-lm is not installed here."
    import mlx.core as mx

    device = "a GPU" if mx.default_device() == mx.gpu else "one core of the processor"
    where = f"MLX {mx.__version__} computes on {device} here."
    return TEXT.format(where=where, table=table(rounds, TITLES), bars=bars(rounds, BARS))


@contextmanager
def endless_folder() -> Generator[Path]:
    """The demo model, where no token ends an answer and each one shows something.

    Not every program can be told so, and the model begins with its reasoning.
    """
    with TemporaryDirectory() as name:
        folder = Path(name)
        for file in (DEMO_DIR / "mlx").iterdir():
            (folder / file.name).symlink_to(file)
        _change(folder / "config.json", eos_token_id=[])
        _change(folder / "generation_config.json", eos_token_id=[])
        _change(folder / "tokenizer_config.json", eos_token=None)
        spelled = (folder / "tokenizer.json").read_text(encoding="utf-8")
        _replace(folder / "tokenizer.json", spelled.replace("<think>", "[think]"))
        yield folder


def _change(path: Path, **members: Any) -> None:
    _replace(path, json.dumps({**json.loads(path.read_text(encoding="utf-8")), **members}))


def _replace(path: Path, text: str) -> None:
    path.unlink()  # the link
    path.write_text(text, encoding="utf-8")
