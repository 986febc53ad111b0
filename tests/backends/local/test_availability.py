"""What can be served is told from the library and the weights, without loading either."""

import sys
from pathlib import Path

import pytest

from car_rpc.backends.local.backend import LocalBackend
from car_rpc.errors import CarError
from car_rpc.testing import MemorySink, scripted_call
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, ModelSource
from tests.backends.conftest import local


def backend(module: str = "this") -> LocalBackend:
    return local("mlx", module, MemorySink())


def model(source: ModelSource) -> ModelSchema:
    return ModelSchema(id="a/b:c", source=source, capabilities=["generate"])


def test_a_gguf_model_is_a_file_and_an_mlx_model_a_folder_with_its_config(tmp_path: Path) -> None:
    file, folder = tmp_path / "model.gguf", tmp_path / "model"
    for source in (LocalSource(path=str(file)), MlxSource(path=str(folder))):
        assert backend().availability(model(source))[:2] == (False, False)
    file.touch()
    folder.mkdir()
    assert backend().availability(model(MlxSource(path=str(folder))))[:2] == (False, False)
    (folder / "config.json").touch()
    for source in (LocalSource(path=str(file)), MlxSource(path=str(folder))):
        assert backend().availability(model(source))[:2] == (True, True)
    assert "this" not in sys.modules


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_is_not_there(tmp_path: Path, name: str) -> None:
    for kind in (LocalSource, MlxSource):
        assert backend().availability(model(kind(path=str(tmp_path / name))))[:2] == (False, False)
    assert backend().availability(model(MlxSource(hf_repo="a/b")))[:2] == (False, False)


async def test_an_engine_that_is_not_installed_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.json").touch()
    absent, source = backend("no_such_library"), MlxSource(path=str(tmp_path))
    assert absent.availability(model(source))[:2] == (False, True)
    with pytest.raises(CarError, match="needs the library no_such_library"):
        [event async for event in absent.generate(scripted_call(model(source)))]
