"""Who has a model without its file learns why, and what to do."""

from pathlib import Path

import msgspec

from car_rpc.cli.remedies import remedies
from car_rpc.testing import scripted_model
from car_rpc.wire.models import LocalSource, MlxSource, ModelSchema, ModelSource


def missing(source: ModelSource) -> ModelSchema:
    model = scripted_model("me/mine:1", [])
    return msgspec.structs.replace(model, source=source, trust_tier="community")


def why(source: ModelSource) -> str:
    reason, _ = remedies([missing(source)])
    return reason.removeprefix("me/mine:1: ")


def test_it_says_what_is_wrong_with_a_path(tmp_path: Path) -> None:
    file, folder = tmp_path / "m.gguf", tmp_path / "mlx"
    assert why(LocalSource(path=str(file))) == f"{file} is not there"
    elsewhere = tmp_path / "usb" / "m.gguf"
    assert "its disk connected" in why(LocalSource(path=str(elsewhere)))
    folder.mkdir()
    assert "a GGUF model is one file" in why(LocalSource(path=str(folder)))
    assert "is its download complete?" in why(MlxSource(path=str(folder)))
    file.touch()
    assert "an MLX model is a folder" in why(MlxSource(path=str(file)))


def test_a_file_that_may_not_be_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch(mode=0)
    assert "see its permissions" in why(LocalSource(path=str(file)))


def test_it_says_what_to_do() -> None:
    _, what = remedies([missing(LocalSource(path="/gone/m.gguf"))])
    assert "register the model again" in what
    assert 'car-rpc call models.unregister \'{"model": "me/mine:1"}\'' in what
    _, what = remedies([missing(LocalSource(hf_repo="acme/m", hf_filename="m.gguf"))])
    assert what.strip() == "car-rpc models pull me/mine:1"


def test_nothing_is_said_of_models_that_are_here_or_only_in_the_catalog() -> None:
    here = msgspec.structs.replace(missing(LocalSource(path="/x")), weights_ready=True)
    listed = msgspec.structs.replace(missing(LocalSource(path="/x")), trust_tier="curated")
    assert list(remedies([here, listed])) == []


def test_a_model_that_answers_and_does_not_see_is_told_of(tmp_path: Path) -> None:
    projector = tmp_path / "mmproj.gguf"
    source = LocalSource(path="/x", mmproj_path=str(projector))
    here = msgspec.structs.replace(missing(source), weights_ready=True)
    reason, what = remedies([here])
    assert reason == f"me/mine:1: its projector {projector} is not there, so it reads text only"
    assert "mmproj_path" in what
    projector.touch()
    assert list(remedies([here])) == []
