"""How well the demo model names colours with ``tiny-sight.gguf``, in car-rpc's own engine.

    python look.py

The pictures are drawn anew; none was trained on. A question of the second kind was not, either.
"""

from __future__ import annotations

import argparse
import base64
import importlib
import io
from pathlib import Path

import numpy as np
from colors import COLORS, MARK, QUESTIONS, draw
from PIL import Image

from car_rpc.wire.content import Base64Source, ImageBlock, Message, TextBlock
from car_rpc.wire.events import TextDelta
from car_rpc.wire.worker import Events, Failed, FromWorker, Generate, Load, Reply, SamplingParams
from car_rpc.workers.job import Job

DEMO = Path(__file__).parents[2] / "car_rpc" / "data" / "demo"

UNTRAINED = [f"{MARK}Which color is it?", f"What is the color?{MARK}", f"{MARK}What do you see?"]


class Model:
    """A model with the projector, in this process."""

    def __init__(self, file: str) -> None:
        self._engine = importlib.import_module("car_rpc.workers.llama_cpp.engine").make_engine()
        paths = {"path": str(DEMO / file), "projector": str(DEMO / "tiny-sight.gguf")}
        self._engine.load(Load(**paths, context_length=512), lambda _: None)

    def answer(self, question: str, picture: bytes) -> str:
        """What it says to a question about a picture."""
        data = base64.b64encode(picture).decode()
        image = ImageBlock(source=Base64Source(media_type="image/png", data=data))
        before, after = ([TextBlock(text=part)] if part else [] for part in question.split(MARK))
        request = Generate(
            id=1,
            messages=[Message(role="user", content=[*before, image, *after])],
            places=["$"],
            params=SamplingParams(temperature=0, max_tokens=16, thinking="off"),
        )
        frames: list[FromWorker] = []
        self._engine.start(Job(request, frames.append, lambda _: None))
        while not any(isinstance(frame, Reply | Failed) for frame in frames):
            self._engine.step()
        events = [event for each in frames if isinstance(each, Events) for event in each.events]
        return "".join(event.text for event in events if isinstance(event, TextDelta))


def picture(rng: np.random.Generator, color: str, side: int) -> bytes:
    """A picture of a colour as a file."""
    image = Image.fromarray(draw(rng, color).astype(np.uint8)).resize((side, side))
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def main() -> None:
    """Print the table of the model card."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=99)
    parser.add_argument("--each", type=int, default=2, help="pictures of each colour a question")
    args = parser.parse_args()
    files = ("tiny-chat-F16.gguf", "tiny-chat-Q8_0.gguf")
    models = [Model(file) for file in files]
    print("| questions |", " | ".join(files), "|\n|---|---|---|")
    for name, questions in (("trained", QUESTIONS), ("others", UNTRAINED)):
        cells = []
        for model in models:
            rng = np.random.default_rng(args.seed)
            cases = [(q, c) for q in questions for c in COLORS for _ in range(args.each)]
            right = [
                model.answer(q, picture(rng, c, int(rng.integers(24, 200)))) == f"It is {c}."
                for q, c in cases
            ]
            cells.append(f"{sum(right) / len(right):.0%} ({sum(right)}/{len(right)})")
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
