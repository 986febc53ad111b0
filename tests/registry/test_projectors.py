"""A model sees what its files let it see."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.registry.projectors import projector_of, with_senses
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import scripted_model
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema

ALL: list[Any] = ["generate", "vision", "grounding", "audio_understanding", "code"]
LEFT = ["generate", "code"]


def model(source: Any) -> ModelSchema:
    return msgspec.structs.replace(scripted_model("a/b:c", [], ALL), source=source)


@pytest.fixture
def projector(tmp_path: Path) -> Path:
    path = tmp_path / "mmproj.gguf"
    path.write_text("x")
    return path


def test_a_model_sees_with_its_projector_only(projector: Path) -> None:
    source = LocalSource(path="/m.gguf", mmproj_path=str(projector))
    seeing = with_senses(model(source))
    assert seeing.capabilities == ALL
    assert projector_of(seeing) == str(projector)
    projector.unlink()
    blind = with_senses(model(source))
    assert blind.capabilities == LEFT
    assert projector_of(blind) == ""
    assert with_senses(model(LocalSource(path="/m.gguf"))).capabilities == LEFT


def test_one_that_is_not_asked_to_see_needs_no_memory_for_it(projector: Path) -> None:
    source = LocalSource(path="/m.gguf", mmproj_path=str(projector))
    plain = msgspec.structs.replace(model(source), capabilities=["generate"])
    assert with_senses(plain) is plain
    assert projector_of(plain) == ""


def test_one_that_is_to_be_downloaded_will_see() -> None:
    source = LocalSource(hf_repo="a/b", hf_filename="m.gguf", mmproj_filename="p.gguf")
    assert with_senses(model(source)).capabilities == ALL


def test_mlx_reads_text_only() -> None:
    assert with_senses(model(MlxSource(path="/m"))).capabilities == LEFT
    assert with_senses(scripted_model("a/b:c", [], ALL)).capabilities == ALL


def test_the_registry_says_so_as_soon_as_the_file_is_there(tmp_path: Path, projector: Path) -> None:
    (tmp_path / "m.gguf").write_text("x")
    registry = Registry([], ModelStore(tmp_path / "car.db"), tmp_path)
    projector.unlink()
    given = model(LocalSource(path="m.gguf", mmproj_path="mmproj.gguf"))
    said, _ = registry.register(given)
    assert said.capabilities == LEFT
    assert registry.now().ranked("vision") == ()
    projector.write_text("x")
    assert registry.find("a/b:c").capabilities == ALL
    assert [each.id for each in registry.now().ranked("vision")] == ["a/b:c"]
    projector.unlink()
    assert registry.find("a/b:c").capabilities == LEFT
    registry.close()
