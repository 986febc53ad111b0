from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.removal import removable, remove
from car_rpc.testing import scripted_model
from car_rpc.wire.models import DelegatedSource, LocalSource, MlxSource, ModelSchema

FILE = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="small-Q4.gguf")


def model(source: Any, name: str = "Small") -> ModelSchema:
    return msgspec.structs.replace(scripted_model("acme/small:1", []), source=source, name=name)


def put(path: Path, size: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * size)
    return path


def cached(hub: Path, name: str, blob: str) -> Path:
    """A file as the hub's own client keeps it: its content in one place, a link in another."""
    repo = hub / "models--acme--Small-GGUF"
    content = put(repo / "blobs" / blob)
    link = repo / "snapshots" / "abc" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.symlink_to(content)
    return link


def removed(source: Any, tmp_path: Path, name: str = "Small") -> int:
    models, hub = tmp_path / "models", tmp_path / "hub"
    return remove(removable(model(source, name), models, hub), (models, hub))


def test_a_file_goes_and_the_other_files_of_its_repository_stay(tmp_path: Path) -> None:
    link = cached(tmp_path / "hub", "small-Q4.gguf", "aaa")
    other = cached(tmp_path / "hub", "small-Q8.gguf", "bbb")
    assert removed(FILE, tmp_path) == 100
    assert not link.is_symlink()
    assert other.read_bytes() == b"x" * 100
    assert removed(FILE, tmp_path) == 0
    eight = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="small-Q8.gguf")
    assert removed(eight, tmp_path) == 100
    assert list((tmp_path / "hub").iterdir()) == [], "the last one takes the folder along"


def test_a_split_model_goes_with_all_its_parts(tmp_path: Path) -> None:
    source = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="Q4/big-00001-of-00003.gguf")
    for part in (1, 2, 3):
        cached(tmp_path / "hub", f"Q4/big-0000{part}-of-00003.gguf", f"blob{part}")
    put(tmp_path / "models" / "Small" / "Q4" / "big-00002-of-00003.gguf", 7)
    kept = cached(tmp_path / "hub", "Q4/big-00001-of-00004.gguf", "other")
    assert removed(source, tmp_path) == 307
    assert kept.exists()
    assert not (tmp_path / "models" / "Small").exists()


def test_the_parts_of_a_download_go_with_it(tmp_path: Path) -> None:
    folder = tmp_path / "models" / "Small"
    put(folder / "small-Q4.gguf", 7)
    put(folder / "small-Q4.gguf.0123.car-rpc.incomplete", 5)
    kept = put(tmp_path / "models" / "Other" / "small-Q4.gguf")
    flat = put(tmp_path / "models" / "small-Q4.gguf", 3)
    assert removed(FILE, tmp_path) == 15
    assert not folder.exists()
    assert not flat.exists()
    assert kept.exists()


def test_a_folder_of_weights_goes_whole(tmp_path: Path) -> None:
    source = MlxSource(hf_repo="acme/Small-4bit")
    put(tmp_path / "models" / "Small" / "config.json", 1)
    put(tmp_path / "models" / "Small" / "model.safetensors", 2)
    put(tmp_path / "hub" / "models--acme--Small-4bit" / "blobs" / "aaa", 4)
    assert removed(source, tmp_path) == 7
    assert (tmp_path / "models").is_dir()
    assert (tmp_path / "hub").is_dir()


def test_a_name_that_leads_elsewhere_leads_nowhere(tmp_path: Path) -> None:
    outside = put(tmp_path / "outside" / "config.json")
    for name in ("../outside", "..", "."):
        assert removed(MlxSource(hf_repo="acme/Small-4bit"), tmp_path, name) == 0
    assert outside.exists()


def test_nothing_outside_is_deleted_whatever_a_registration_says(tmp_path: Path) -> None:
    kept = put(tmp_path / "models" / "Other" / "other.gguf")
    outside = put(tmp_path / "outside" / "mine.gguf")
    for name in ("", ".", "..", "../outside", str(tmp_path / "outside"), "../../x"):
        for source in (
            LocalSource(hf_repo="a/b", hf_filename="x.gguf", mmproj_filename=name),
            LocalSource(hf_repo="a/b", hf_filename=name),
            LocalSource(url="https://files.example/x.gguf", mmproj_filename=name),
        ):
            assert removed(source, tmp_path) == 0
    link = tmp_path / "hub" / "models--acme--Small-GGUF" / "snapshots" / "abc" / "small-Q4.gguf"
    link.parent.mkdir(parents=True)
    link.symlink_to(outside)
    removed(FILE, tmp_path)
    assert kept.exists()
    assert outside.exists(), "a link goes, and not what the user linked to"


def test_a_star_in_a_name_is_a_star(tmp_path: Path) -> None:
    other = cached(tmp_path / "hub", "small-Q4.gguf", "aaa")
    star = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="*.gguf")
    assert removed(star, tmp_path) == 0
    assert other.exists()


@pytest.mark.parametrize("source", [LocalSource(path="/mine/a.gguf"), DelegatedSource()])
def test_what_is_not_ours_is_refused(source: Any, tmp_path: Path) -> None:
    with pytest.raises(CarError) as caught:
        removed(source, tmp_path)
    assert caught.value.kind == "conflict"
