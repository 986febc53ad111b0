"""What is said of a model whose files are not all there."""

from pathlib import Path
from typing import Any

import pytest

from car_rpc.registry.absence import missing
from car_rpc.wire.models import Adapter, DelegatedSource, LocalSource, MlxSource
from car_rpc.wire.speculation import DraftSpeculation


def why(source: Any) -> str:
    return missing(source) or ""


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


def test_a_folder_at_home_that_was_never_made_is_on_no_other_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    path = tmp_path / "models" / "m.gguf"
    assert why(LocalSource(path=str(path))).endswith("its folder is not either")


def test_a_file_that_may_not_be_read_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "m.gguf"
    file.touch(mode=0)
    monkeypatch.setattr("os.access", lambda *_: False)  # root may read all
    assert "see its permissions" in why(LocalSource(path=str(file)))


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b"])
def test_a_path_that_cannot_be_is_missing(tmp_path: Path, name: str) -> None:
    assert why(LocalSource(path=str(tmp_path / name)))
    assert why(MlxSource(path=str(tmp_path / name)))


def test_nothing_is_missing_of_what_is_there_or_needs_no_file(tmp_path: Path) -> None:
    file = tmp_path / "m.gguf"
    file.touch()
    (tmp_path / "config.json").touch()
    for source in (LocalSource(path=str(file)), MlxSource(path=str(tmp_path)), DelegatedSource()):
        assert missing(source) is None
    assert "not on this machine" in why(MlxSource(hf_repo="a/b"))


def test_each_adapter_is_looked_for_and_told_by_its_place(tmp_path: Path) -> None:
    file, there, gone = tmp_path / "m.gguf", tmp_path / "a.gguf", tmp_path / "b.gguf"
    file.touch()
    there.touch()
    adapters = [Adapter(path=str(path)) for path in (there, gone)]
    source = LocalSource(path=str(file), adapters=adapters)
    assert why(source) == f"adapters[1]: {gone} is not there"
    gone.mkdir()
    assert "a GGUF adapter is one file" in why(source)
    gone.rmdir()
    gone.touch()
    assert missing(source) is None


def test_a_draft_model_that_is_missing_is_named(tmp_path: Path) -> None:
    file, draft = tmp_path / "a.gguf", tmp_path / "draft.gguf"
    file.touch()
    source = LocalSource(path=str(file), speculation=DraftSpeculation(path=str(draft)))
    assert why(source) == f"speculation.path: {draft} is not there"
    draft.touch()
    assert missing(source) is None


def test_an_adapter_for_mlx_is_a_folder_with_two_files(tmp_path: Path) -> None:
    adapter = tmp_path / "adapter"
    (tmp_path / "config.json").touch()
    source = MlxSource(path=str(tmp_path), adapters=[Adapter(path=str(adapter))])
    assert why(source) == f"adapters[0]: {adapter} is not there"
    adapter.touch()
    assert "an MLX adapter is a folder" in why(source)
    adapter.unlink()
    adapter.mkdir()
    for name in ("adapter_config.json", "adapters.safetensors"):
        assert f"holds no {name}" in why(source)
        (adapter / name).touch()
    assert missing(source) is None
