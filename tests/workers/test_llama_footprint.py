"""What a sequence takes, beside what llama.cpp says that it allocates."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("llama_cpp")

from car_rpc.wire.worker import Load
from car_rpc.workers.llama_cpp import native
from car_rpc.workers.llama_cpp.context import Context
from car_rpc.workers.llama_cpp.engine import LlamaEngine
from car_rpc.workers.llama_cpp.footprint import footprint
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK
from car_rpc.workers.llama_cpp.model import Model
from tests.workers.memories import WRITERS

pytestmark = pytest.mark.llama

TOKENS = 32768


def allocated_mib(model: Model, capfd: pytest.CaptureFixture[str]) -> float:
    native.lib.llama_log_set(native._log_callback, None)  # others may have silenced it
    capfd.readouterr()
    Context(model, PREFILL_CHUNK, n_ctx=2 * TOKENS, n_seq_max=2, kv_unified=False).close()
    sizes = re.findall(r"(?:KV|RS) buffer size = +([\d.]+) MiB", capfd.readouterr().err)
    return sum(map(float, sizes)) / 2


@pytest.mark.parametrize("kind", ["attention", *WRITERS])
def test_a_sequence_takes_what_is_allocated_for_it(
    kind: str,
    model_file: Callable[..., Path],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    path = model_file() if kind == "attention" else WRITERS[kind](tmp_path / "model.gguf")
    model = Model(str(path), lambda _: None)
    told_mib = footprint(model, PREFILL_CHUNK).of(TOKENS) / 2**20
    # The state of a token has 12 bytes for its place, and llama.cpp tells hundredths.
    assert told_mib == pytest.approx(allocated_mib(model, capfd), rel=0.1, abs=0.01)


def test_a_slot_takes_what_its_context_computes_in_as_well(
    model_file: Callable[..., Path], capfd: pytest.CaptureFixture[str]
) -> None:
    """Without flash attention that is more than what the model remembers."""
    native.lib.llama_log_set(native._log_callback, None)
    engine = LlamaEngine()
    path, room = str(model_file(context=TOKENS // 2)), TOKENS // 2
    engine.load(Load(path=path, context_length=room), lambda _: None)
    capfd.readouterr()
    assert engine._generators is not None
    long = engine._generators.long
    said = capfd.readouterr().err
    sizes = re.findall(r"(?:KV|compute) buffer size = +([\d.]+) MiB", said)
    told_mib = long._slot_bytes(room) / 2**20
    assert told_mib == pytest.approx(sum(map(float, sizes)), rel=0.1)
