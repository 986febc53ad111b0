"""The demo model looks at pictures through the projector that ships, and names their colours."""

import io

import pytest

pytest.importorskip("llama_cpp")

from PIL import Image

from car_rpc.wire.worker import Load
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from tests.workers.conftest import DEMO_MODEL
from tests.workers.test_engines import run
from tests.workers.test_llama_media import look

pytestmark = pytest.mark.llama

PROJECTOR = DEMO_MODEL.with_name("tiny-sight.gguf")
COLORS = {
    "red": (220, 35, 40),
    "green": (50, 165, 65),
    "blue": (45, 75, 215),
    "black": (18, 18, 18),
    "white": (245, 245, 245),
}


@pytest.fixture(scope="module")
def engine() -> LlamaEngine:
    engine = LlamaEngine()
    load = Load(path=str(DEMO_MODEL), projector=str(PROJECTOR), context_length=512)
    engine.load(load, lambda _: None)
    return engine


def flat(color: tuple[int, ...], size: tuple[int, int]) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "PNG")
    return file.getvalue()


@pytest.mark.parametrize("color", COLORS)
@pytest.mark.parametrize("size", [(32, 32), (120, 80)])
def test_it_says_what_color_a_picture_is(
    engine: LlamaEngine, color: str, size: tuple[int, int]
) -> None:
    seen = flat(COLORS[color], size)
    (asked,) = run(engine, look("What color is this?", seen, thinking="off", ignore_eos=False))
    assert asked.text == f"It is {color}."
