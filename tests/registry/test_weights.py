import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.config import hub_cache
from car_rpc.errors import CarError
from car_rpc.registry.weights import (
    WeightFiles,
    downloads_weights,
    folder_ready,
    missing_weights,
)
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Adapter, DelegatedSource, LocalSource, MlxSource, ModelSchema
from car_rpc.wire.speculation import DraftSpeculation

FILE = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="small-Q4.gguf")
FOLDER = MlxSource(hf_repo="acme/Small-4bit")


def model(source: Any) -> ModelSchema:
    return msgspec.structs.replace(scripted_model("acme/small:1", []), source=source, name="Small")


def path_of(files: WeightFiles, source: Any) -> str | None:
    (found,) = files.look([model(source)]).models
    path = found.source.path
    return None if path is UNSET else path


@pytest.fixture
def files(tmp_path: Path) -> WeightFiles:
    return WeightFiles(tmp_path / "models", tmp_path / "hub")


def put(path: Path, content: str = "x") -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    return str(path)


def test_weights_are_found_wherever_they_come_to_lie(files: WeightFiles, tmp_path: Path) -> None:
    assert path_of(files, FILE) is None
    snapshots = tmp_path / "hub" / "models--acme--Small-GGUF" / "snapshots"
    old = put(snapshots / "aaa" / "small-Q4.gguf")
    assert path_of(files, FILE) == old
    newer = put(snapshots / "bbb" / "small-Q4.gguf")
    put(tmp_path / "hub" / "models--acme--Small-GGUF" / "refs" / "main", "aaa")
    assert path_of(files, FILE) == old, "the version that was asked for last"
    put(tmp_path / "hub" / "models--acme--Small-GGUF" / "refs" / "main", "bbb\n")
    assert path_of(files, FILE) == newer
    flat = put(tmp_path / "models" / "small-Q4.gguf")
    assert path_of(files, FILE) == flat
    named = put(tmp_path / "models" / "Small" / "small-Q4.gguf")
    assert path_of(files, FILE) == named
    for path in (named, flat, newer, old):
        Path(path).unlink()
    assert path_of(files, FILE) is None


SPLIT = LocalSource(hf_repo="acme/Big-GGUF", hf_filename="Q4/big-00001-of-00003.gguf")


def test_a_split_model_is_found_once_all_its_parts_are_here(
    files: WeightFiles, tmp_path: Path
) -> None:
    folder = tmp_path / "hub" / "models--acme--Big-GGUF" / "snapshots" / "aaa" / "Q4"
    first = put(folder / "big-00001-of-00003.gguf")
    for part in (3, 2):
        assert path_of(files, SPLIT) is None
        put(folder / f"big-0000{part}-of-00003.gguf")
    assert path_of(files, SPLIT) == first
    put(tmp_path / "models" / "Small" / "Q4" / "big-00001-of-00003.gguf")
    assert path_of(files, SPLIT) == first, "what is whole goes before what is not"


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (LocalSource(path="/x/big-00002-of-00003.gguf"), "path"),
        (LocalSource(hf_repo="acme/Big", hf_filename="big-00003-of-00003.gguf"), "hf_filename"),
        (LocalSource(url="https://example.org/big-00002-of-00003.gguf"), "url"),
        (LocalSource(url="https://example.org/b-00001-of-00002.gguf", sha256="0" * 64), "sha256"),
    ],
)
def test_a_split_model_is_named_by_its_first_part_and_has_no_one_checksum(
    source: LocalSource, field: str, files: WeightFiles
) -> None:
    with pytest.raises(CarError) as caught:
        files.absolute(source)
    assert (caught.value.kind, caught.value.extra["path"]) == (
        "invalid_params", f"$.model.source.{field}",
    )  # fmt: skip


def long_ago(folder: Path) -> None:
    """As if nothing in it had changed for long."""
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (1, 1))


def test_a_look_holds_until_a_folder_that_it_went_through_changes(
    files: WeightFiles, tmp_path: Path
) -> None:
    repo = tmp_path / "hub" / "models--acme--Small-GGUF"
    put(repo / "refs" / "main", "aaa")
    old = put(repo / "snapshots" / "aaa" / "small-Q4.gguf")
    changes = [
        Path(old).unlink,
        lambda: put(repo / "snapshots" / "bbb" / "small-Q4.gguf"),
        lambda: put(repo / "refs" / "main", "bbb"),
        lambda: put(tmp_path / "models" / "small-Q4.gguf"),
        lambda: put(tmp_path / "models" / "Small" / "small-Q4.gguf"),
    ]
    for change in changes:
        long_ago(tmp_path)
        look = files.look([model(FILE)])
        assert look.holds()
        change()
        assert not look.holds()


def test_a_look_at_what_changed_just_now_does_not_hold(files: WeightFiles, tmp_path: Path) -> None:
    long_ago(tmp_path)
    assert files.look([model(FILE)]).holds()
    put(tmp_path / "models" / "a.gguf")
    assert not files.look([model(FILE)]).holds(), "the same tick of the clock may bring more"


def test_a_folder_that_is_not_complete_is_looked_at_again_when_a_part_of_it_comes(
    files: WeightFiles, tmp_path: Path
) -> None:
    part = tmp_path / "models" / "Small" / "part"
    part.mkdir(parents=True)
    long_ago(tmp_path)
    look = files.look([model(FOLDER)])
    assert look.holds()
    put(part / "model.safetensors")
    assert not look.holds()
    assert path_of(files, FOLDER) == str(tmp_path / "models" / "Small")


def test_a_folder_of_weights_is_found_once_it_is_complete(
    files: WeightFiles, tmp_path: Path
) -> None:
    cached = tmp_path / "hub" / "models--acme--Small-4bit" / "snapshots" / "aaa"
    put(cached / "README.md")
    assert path_of(files, FOLDER) is None
    put(cached / "config.json", "{}")
    assert path_of(files, FOLDER) == str(cached)
    put(tmp_path / "models" / "Small" / "model.safetensors")
    assert path_of(files, FOLDER) == str(tmp_path / "models" / "Small")


def test_files_beside_it_do_not_make_a_folder_of_weights_complete(
    files: WeightFiles, tmp_path: Path
) -> None:
    put(tmp_path / "models" / "config.json")
    put(tmp_path / "models" / "Other" / "model.safetensors")
    assert path_of(files, FOLDER) is None


@pytest.mark.parametrize(
    ("name", "ready"),
    [
        ("config.json", True),
        ("model_index.json", True),
        ("sub/WEIGHTS.SAFETENSORS", True),
        ("weights.bin", False),
    ],
)
def test_a_snapshot_is_ready_by_what_lies_in_it(tmp_path: Path, name: str, ready: bool) -> None:
    put(tmp_path / name)
    assert folder_ready(tmp_path) is ready


def test_a_snapshot_that_lacks_a_part_of_its_weights_is_not_ready(tmp_path: Path) -> None:
    parts = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    index = {"weight_map": {"a": parts[0], "b": parts[1], "c": parts[1]}}
    put(tmp_path / "config.json", "{}")
    put(tmp_path / "model.safetensors.index.json", json.dumps(index))
    put(tmp_path / parts[0])
    assert not folder_ready(tmp_path)
    put(tmp_path / parts[1])
    assert folder_ready(tmp_path)


def test_a_model_that_sees_is_here_when_its_projector_is(
    files: WeightFiles, tmp_path: Path
) -> None:
    source = msgspec.structs.replace(FILE, mmproj_filename="mmproj.gguf")
    put(tmp_path / "models" / "small-Q4.gguf")
    assert path_of(files, source) is None
    projector = put(tmp_path / "models" / "mmproj.gguf")
    (found,) = files.look([model(source)]).models
    assert isinstance(found.source, LocalSource)
    assert found.source.mmproj_path == projector


def test_what_names_a_path_is_left_as_it_is(files: WeightFiles, tmp_path: Path) -> None:
    put(tmp_path / "models" / "small-Q4.gguf")
    for source in (msgspec.structs.replace(FILE, path="/elsewhere"), DelegatedSource()):
        assert files.look([model(source)]).models == [model(source)]


def test_a_draft_model_lies_in_the_models_directory_unless_it_is_absolute(
    files: WeightFiles, tmp_path: Path
) -> None:
    for given, kept in (("b.gguf", str(tmp_path / "models" / "b.gguf")), ("/c.gguf", "/c.gguf")):
        source = LocalSource(path="/a.gguf", speculation=DraftSpeculation(path=given))
        found = files.absolute(source)
        assert isinstance(found, LocalSource)
        assert found.speculation == DraftSpeculation(path=kept)


@pytest.mark.parametrize(
    ("source", "field"),
    [
        (LocalSource(), "path"),
        (LocalSource(hf_repo="a/b"), "path"),
        (LocalSource(hf_filename="b.gguf"), "path"),
        (MlxSource(), "path"),
        (MlxSource(hf_repo="../up"), "hf_repo"),
        (MlxSource(hf_repo="a/.."), "hf_repo"),
        (MlxSource(hf_repo="a/b/c"), "hf_repo"),
        (MlxSource(hf_repo="a/b\n"), "hf_repo"),
        (LocalSource(hf_repo="a/b", hf_filename="../c.gguf"), "hf_filename"),
        (LocalSource(hf_repo="a/b", hf_filename="/c.gguf"), "hf_filename"),
        (LocalSource(hf_repo="a/b", hf_filename="c\0.gguf"), "hf_filename"),
        (LocalSource(hf_repo="a/b", hf_filename="c", mmproj_filename="../d"), "mmproj_filename"),
        (LocalSource(path="a\0"), "path"),
        (LocalSource(path="a", adapters=[Adapter(path="b\0")]), "adapters[0].path"),
        (LocalSource(path="a", mmproj_path="~nobody-of-this-name/b"), "mmproj_path"),
        (LocalSource(path="a", speculation=DraftSpeculation(path="a\0")), "speculation.path"),
    ],
)
def test_a_source_that_names_no_weights_is_refused(
    files: WeightFiles, source: Any, field: str
) -> None:
    with pytest.raises(CarError) as caught:
        files.absolute(source)
    assert caught.value.kind == "invalid_params"
    assert caught.value.data["path"] == f"$.model.source.{field}"


def test_the_path_of_an_adapter_is_taken_from_the_models_directory(
    files: WeightFiles, tmp_path: Path
) -> None:
    adapters = [Adapter(path="style.gguf", scale=0.5), Adapter(path="/mine.gguf")]
    for source in (LocalSource(path="/m.gguf", adapters=adapters), FILE, FOLDER):
        found = files.absolute(msgspec.structs.replace(source, adapters=adapters))
        assert found.adapters == [
            Adapter(path=str(tmp_path / "models" / "style.gguf"), scale=0.5),
            Adapter(path="/mine.gguf"),
        ]


def test_whoever_uses_a_model_too_early_learns_what_to_download() -> None:
    error = missing_weights(model(FILE))
    assert (error.kind, error.data["model"]) == ("model_load_failed", "acme/small:1")
    assert "small-Q4.gguf of the hub's repository acme/Small-GGUF" in str(error)
    assert "acme/Small-4bit of the hub" in str(missing_weights(model(FOLDER)))


def test_only_what_a_hub_has_can_be_downloaded() -> None:
    assert downloads_weights(FILE)
    assert downloads_weights(FOLDER)
    assert not downloads_weights(LocalSource(path="/a"))
    assert not downloads_weights(DelegatedSource())


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h"}, "/c"),
        ({"HF_HUB_CACHE": " ", "HF_HOME": "/h"}, "/h/hub"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/huggingface/hub"),
        ({}, f"{Path.home()}/.cache/huggingface/hub"),
    ],
)
def test_the_hubs_cache_is_where_its_own_client_has_it(environ: dict[str, str], cache: str) -> None:
    assert str(hub_cache(environ)) == cache


@pytest.mark.parametrize("name", ["", ".", "..", "/etc", "../x", "a\\b", "a\0b"])
def test_a_name_that_is_no_file_of_a_repository_is_refused(files: WeightFiles, name: str) -> None:
    for source in (
        LocalSource(hf_repo="a/b", hf_filename=name),
        LocalSource(hf_repo="a/b", hf_filename="x.gguf", mmproj_filename=name),
        LocalSource(url="https://files.example/x.gguf", mmproj_filename=name),
    ):
        with pytest.raises(CarError) as caught:
            files.absolute(source)
        assert caught.value.kind == "invalid_params"


def test_a_file_of_an_address_has_its_last_name(files: WeightFiles, tmp_path: Path) -> None:
    source = LocalSource(url="https://files.example/a/big%20one.gguf?signature=x")
    assert downloads_weights(source)
    assert path_of(files, source) is None
    path = put(tmp_path / "models" / "Small" / "big one.gguf")
    assert path_of(files, source) == path
    assert files.absolute(source) == source
    with pytest.raises(CarError) as caught:
        files.absolute(LocalSource(url="https://files.example/"))
    assert caught.value.extra["path"] == "$.model.source.url"
