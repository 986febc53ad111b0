"""Which files may be imported as the weights of which models."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.builtin import DEMO_DIR
from car_rpc.registry.curated import curated
from car_rpc.registry.facts import with_facts
from car_rpc.registry.identity import check_import
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Cost, LocalSource, MlxSource, ModelSchema
from tests.registry.conftest import MakeGguf

FILE = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="small.gguf")
SPLIT = LocalSource(hf_repo="acme/Small-GGUF", hf_filename="small-00001-of-00002.gguf")
FOLDER = MlxSource(hf_repo="acme/Small-4bit")
DEMO = DEMO_DIR / "tiny-chat-Q8_0.gguf"


def model(source: Any = FILE, **fields: Any) -> ModelSchema:
    bare = scripted_model("acme/small:1", [])
    return msgspec.structs.replace(bare, source=source, name="Small", **fields)


def refusal(model: ModelSchema, path: Path) -> CarError:
    with pytest.raises(CarError) as caught:
        check_import(model, path)
    assert caught.value.kind == "conflict"
    assert caught.value.extra["model"] == model.id
    assert caught.value.extra["path"] == str(path)
    return caught.value


def test_where_the_entry_says_nothing_any_model_passes() -> None:
    check_import(model(), DEMO)
    check_import(model(FOLDER), DEMO_DIR / "mlx")


def test_a_model_s_own_files_pass() -> None:
    for source, path in ((FILE, DEMO), (FOLDER, DEMO_DIR / "mlx")):
        kind = type(source)(path=str(path))
        told = with_facts(model(kind))
        assert told.family == "qwen3"
        check_import(msgspec.structs.replace(told, source=source), path)


@pytest.mark.parametrize(
    ("says", "what"),
    [
        ({"family": "llama"}, "architecture is qwen3, not llama"),
        ({"quantization": "Q4_K_M"}, "quantization is Q8_0, not Q4_K_M"),
        ({"param_count": "8.2B"}, "number of parameters is 3.9M, not 8.2B"),
        ({"cost": Cost(size_bytes=5_027_783_488)}, "not 5027783488"),
        ({"cost": Cost(kv_bytes_per_token=147_456)}, "cache per token in bytes is 3072"),
    ],
)
def test_another_model_s_file_is_refused_and_both_are_named(says: Any, what: str) -> None:
    error = refusal(model(**says), DEMO)
    assert what in error.message
    assert "acme/small:1" in error.message
    assert str(DEMO) in error.message
    assert error.extra["found"].keys() == error.extra["expected"].keys()


@pytest.mark.parametrize(
    "says",
    [
        {"family": "Qwen3"},
        {"family": "deepseek-r1-distill"},
        {"quantization": "UD-Q4_K_XL"},
        {"param_count": "3M"},
        {"param_count": "E4B"},
        {"cost": Cost(size_bytes=round(1.05 * DEMO.stat().st_size))},
        {"cost": Cost(ram_bytes=1)},
    ],
    ids=str,
)
def test_what_may_be_the_same_passes(says: Any) -> None:
    check_import(model(**says), DEMO)


def test_what_is_close_in_size_is_told_apart_by_the_shape_of_its_cache(make_gguf: MakeGguf) -> None:
    catalog = {each.id: each for each in curated().models}
    qwen = catalog["qwen/qwen3-8b:q4_k_m"]
    llama = make_gguf(
        "Meta-Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        architecture="llama",
        general__size_label="8B",
        general__file_type=15,
        llama__block_count=32,
        llama__embedding_length=4096,
        llama__attention__head_count=32,
        llama__attention__head_count_kv=8,
    )
    assert not isinstance(qwen.cost, msgspec.UnsetType)
    sizeless = msgspec.structs.replace(qwen.cost, size_bytes=msgspec.UNSET)
    error = refusal(msgspec.structs.replace(qwen, cost=sizeless), llama)
    found = {"architecture": "llama", "cache per token in bytes": "131072"}
    assert error.extra["found"] == found
    own = msgspec.structs.replace(catalog["meta/meta-llama-3.1-8b-instruct:q4_k_m"], cost=sizeless)
    refusal(own, llama)
    fitting = msgspec.structs.replace(sizeless, kv_bytes_per_token=131_072)
    check_import(msgspec.structs.replace(own, cost=fitting), llama)


def test_what_is_no_model_is_refused(tmp_path: Path, make_gguf: MakeGguf) -> None:
    text = tmp_path / "model.gguf"
    text.write_text("hello")
    assert "not a GGUF file" in refusal(model(), text).message
    projector = make_gguf("mmproj.gguf", architecture="clip")
    assert "image projector" in refusal(model(), projector).message
    (tmp_path / "folder").mkdir()
    assert "no complete weights" in refusal(model(FOLDER), tmp_path / "folder").message


def test_a_split_model_is_imported_by_its_first_part_with_the_others_beside_it(
    make_gguf: MakeGguf,
) -> None:
    first, second = (make_gguf(f"mine-0000{part}-of-00002.gguf") for part in (1, 2))
    check_import(model(SPLIT), first)
    assert "name the first part" in refusal(model(SPLIT), second).message
    assert "2 files, and the model has one file" in refusal(model(), first).message
    assert "one file, and the model has 2 files" in refusal(model(SPLIT), DEMO).message
    second.unlink()
    assert "mine-00002-of-00002.gguf is not beside it" in refusal(model(SPLIT), first).message


def test_what_is_not_there_is_left_to_whoever_copies(tmp_path: Path) -> None:
    check_import(model(), tmp_path / "nothing.gguf")
    check_import(model(), DEMO_DIR / "mlx")
    check_import(model(FOLDER), DEMO)
