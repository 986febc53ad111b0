"""LoRA adapters: a model with one computes what the merged weights would, on every engine."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.builtin import DEMO_DIR
from car_rpc.wire.content import Message
from car_rpc.wire.models import Adapter
from car_rpc.wire.worker import Embed, Events, Rank, Reply, Score
from car_rpc.wire.worker import Load as LoadFrame
from car_rpc.workers.runtime import Engine
from tests.workers.conftest import DEMO_FOLDER, DEMO_MODEL, Kind, Load
from tests.workers.folders import write_json
from tests.workers.lora import (
    Change,
    changes,
    configured,
    merged,
    write_adapter,
    write_demo,
    write_mlx_adapter,
)
from tests.workers.test_engines import Asked, chat, finish, run

TEXT = "Tell me a short story."

MATRICES = ("blk.0.attn_q", "blk.3.attn_q", "blk.5.attn_q", "blk.2.ffn_down")

#: Far above what half precision does to the caches, far below what the adapters do.
CLOSE = {"rtol": 0, "atol": 1e-2}


@pytest.fixture(scope="module")
def base(kind: Kind, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_demo(kind.engine, tmp_path_factory.mktemp("base") / "model", {})


class Answers(NamedTuple):
    """What an engine says, what is read off its logits, and its vector of the text."""

    said: str
    numbers: Any
    vector: Any


def answers(engine: Engine) -> Answers:
    return Answers(said(engine), numbers(engine), vector(engine))


@pytest.fixture(scope="module")
def plain(base: Path, load: Load) -> Answers:
    """The answers of the model without an adapter."""
    return answers(load(base))


@pytest.fixture
def write(kind: Kind, tmp_path: Path) -> Callable[..., Path]:
    """Writes an adapter for the engine."""

    def make(made: dict[str, Change], **options: Any) -> Path:
        name = f"adapter{len(list(tmp_path.iterdir()))}"
        return write_adapter(kind.engine, tmp_path / name, made, **options)

    return make


@pytest.fixture
def load_merged(kind: Kind, load: Load, tmp_path: Path) -> Callable[..., Engine]:
    """Loads the model with adapters merged into its weights by numpy."""

    def make(*parts: tuple[dict[str, Change], float]) -> Engine:
        return load(write_demo(kind.engine, tmp_path / "merged", merged(*parts)))

    return make


def adapted(path: Path, scale: float = 1.0) -> Adapter:
    return Adapter(path=str(path), scale=scale)


def said(engine: Engine) -> str:
    (asked,) = run(engine, chat(TEXT, max_tokens=24, thinking="off"))
    return asked.text


def ask(engine: Engine, request: Any) -> Any:
    asked = Asked(engine, request)
    finish(engine, asked)
    assert isinstance(asked.answer, Reply), asked.answer
    return asked.answer.result


def vector(engine: Engine) -> Any:
    return np.frombuffer(ask(engine, Embed(id=1, texts=[TEXT])).data, "<f4")


def numbers(engine: Engine) -> Any:
    """What is read off the logits, by each way in which an engine makes some."""
    (asked,) = run(engine, chat(TEXT, max_tokens=1, logprobs=8, thinking="off"))
    (first,) = [
        each for frame in asked.frames if isinstance(frame, Events) for each in frame.logprobs
    ]
    messages = [Message(role="user", content=TEXT)]
    judged = ask(engine, Score(id=1, messages=messages, answers=["Once", "No", ""]))
    ranked = ask(engine, Rank(id=1, query="cats", documents=["cats", "dogs"], instruction=""))
    return np.array([*(each.logprob for each in first.top_logprobs), *judged, *ranked])


@pytest.mark.parametrize("scale", [0.0, 0.5, 1.0])
def test_a_model_with_an_adapter_says_what_the_merged_weights_say(
    kind: Kind, base: Path, plain: Answers, load: Load, load_merged: Any, write: Any, scale: float
) -> None:
    made = changes(*MATRICES)
    engine = load(base, adapters=[adapted(write(made), scale)])
    merged = answers(load_merged((made, scale))) if scale else plain
    here = answers(engine)
    np.testing.assert_allclose(here.numbers, merged.numbers, **CLOSE)
    np.testing.assert_allclose(here.vector, merged.vector, **CLOSE)
    assert here.said == merged.said
    assert (here.said != plain.said) == bool(scale)
    assert (np.abs(here.numbers - plain.numbers).max() > 0.5) == bool(scale)


def test_adapters_are_added_up_where_they_meet_and_where_they_do_not(
    kind: Kind, base: Path, load: Load, load_merged: Any, write: Any
) -> None:
    one, other = changes("blk.0.attn_q", "blk.2.ffn_down"), changes(*MATRICES, seed=2, rank=8)
    parts = [(one, 1.0), (other, 0.5), (one, -0.25)]
    engine = load(base, adapters=[adapted(write(made), scale) for made, scale in parts])
    expected = load_merged(*parts)
    np.testing.assert_allclose(numbers(engine), numbers(expected), **CLOSE)
    np.testing.assert_allclose(vector(engine), vector(expected), **CLOSE)


def test_an_adapter_may_change_the_embeddings(
    kind: Kind, base: Path, load: Load, load_merged: Any, model: Any, write: Any
) -> None:
    made = changes("token_embd")
    if kind.engine == "mlx":
        engine, expected = load(base, adapters=[adapted(write(made))]), load_merged((made, 1.0))
        np.testing.assert_allclose(numbers(engine), numbers(expected), **CLOSE)
        return
    # llama.cpp changes them where the model has other weights to speak with.
    base = model()
    made = changes("token_embd", of=base)
    engine = load(base, adapters=[adapted(write(made, architecture="llama"))])
    assert np.abs(vector(engine) - vector(load(base))).max() > 0.01


def test_an_adapter_changes_quantized_weights(
    kind: Kind, load: Load, model: Any, model_file: Callable[..., Path], write: Any
) -> None:
    path, of = DEMO_DIR / "tiny-chat-Q8_0.gguf", DEMO_MODEL
    if kind.engine == "mlx":
        path, of = model(bits=4), model_file()
    adapter = adapted(write(changes("blk.0.attn_q", "blk.1.ffn_down", of=of)))
    assert np.abs(vector(load(path, adapters=[adapter])) - vector(load(path))).max() > 0.01


# ------------------------------------------------------------------------------ what does not fit


def failure(load: Load, base: Path, path: Path) -> CarError:
    with pytest.raises(CarError) as caught:
        load(base, adapters=[adapted(path)])
    assert "Traceback" not in caught.value.detail
    assert f"adapters[0]: {path}" in caught.value.detail
    assert "register the model without it" in caught.value.detail
    return caught.value


def test_an_adapter_that_is_cut_is_refused(kind: Kind, load: Load, base: Path, write: Any) -> None:
    path = write(changes(*MATRICES))
    file = path if path.is_file() else path / "adapters.safetensors"
    file.write_bytes(file.read_bytes()[:-1000])
    error = failure(load, base, path)
    assert error.kind == "model_load_failed"
    assert "fetch it again" in error.detail


BAD_MLX: dict[str, tuple[Callable[[Path], object], str]] = {
    "no settings": (lambda f: (f / "adapter_config.json").unlink(), "is not there"),
    "no weights": (lambda f: (f / "adapters.safetensors").unlink(), "is not there"),
    "nothing": (shutil.rmtree, "is not there"),
    "settings of something else": (
        lambda f: (f / "adapter_config.json").write_text("<html>"),
        "is not JSON",
    ),
    "settings of another library": (
        lambda f: write_json(f / "adapter_config.json", {"r": 8, "lora_alpha": 16}),
        "does not fit the model",
    ),
    "no number for its rank": (
        lambda f: configured(f, lora_parameters={"rank": "8", "scale": 1, "dropout": 0}),
        "does not fit the model",
    ),
    "a rank beyond belief": (
        lambda f: configured(f, lora_parameters={"rank": 2**40, "scale": 1, "dropout": 0}),
        "does not fit the model",
    ),
    "whole weights": (lambda f: configured(f, fine_tune_type="full"), "mlx_lm.fuse"),
    "another kind": (lambda f: configured(f, fine_tune_type="dora"), "mlx_lm.fuse"),
    "one half": (lambda f: without(f, "lora_b"), "two halves"),
    "no half": (lambda f: without(f, "lora"), "two halves"),
}


def without(path: Path, part: str) -> None:
    from safetensors.numpy import load_file, save_file

    file = path / "adapters.safetensors"
    kept = {name: each for name, each in load_file(file).items() if part not in name}
    save_file(kept, file)


@pytest.mark.mlx
@pytest.mark.parametrize("spoiled", BAD_MLX)
def test_a_folder_that_is_no_adapter_is_refused(tmp_path: Path, spoiled: str) -> None:
    engine = pytest.importorskip("car_rpc.workers.mlx.engine")
    path = write_mlx_adapter(tmp_path / "adapter", changes(*MATRICES))
    spoil, reason = BAD_MLX[spoiled]
    spoil(path)
    with pytest.raises(CarError) as caught:
        engine.make_engine().load(
            LoadFrame(path=str(DEMO_FOLDER), adapters=[adapted(path)]), lambda _: None
        )
    assert caught.value.kind == "model_load_failed"
    assert reason in caught.value.detail
    assert f"adapters[0]: {path}" in caught.value.detail


def test_an_adapter_of_another_model_is_refused(
    kind: Kind, load: Load, model: Any, base: Path, write: Any
) -> None:
    path = write(changes("blk.0.attn_q"))
    error = failure(load, model(), path)
    assert error.kind == "model_load_failed"
    assert "made for this model" in error.detail
