import json
import os
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.registry.builtin import DEMO_DIR
from car_rpc.registry.facts import Facts, folder_facts, gguf_facts, with_facts
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Adapter, Cost, LocalSource, MlxSource, ModelSchema
from tests.registry.conftest import MakeGguf, MakeSafetensors


def model(path: Path | str, **fields: Any) -> ModelSchema:
    source = MlxSource(path=str(path)) if Path(path).is_dir() else LocalSource(path=str(path))
    return msgspec.structs.replace(scripted_model("me/mine:1", []), source=source, **fields)


def test_a_gguf_file_tells_what_its_model_is(make_gguf: MakeGguf) -> None:
    path = make_gguf(
        general__version="2507",
        general__size_label="4B",
        general__license="apache-2.0",
        general__file_type=15,
        qwen3__context_length=40960,
        qwen3__block_count=36,
        qwen3__embedding_length=2560,
        qwen3__attention__head_count=32,
        qwen3__attention__head_count_kv=8,
        qwen3__attention__key_length=128,
        qwen3__attention__value_length=128,
        tokenizer__chat_template="{{ messages }}",
    )
    assert gguf_facts(path) == Facts(
        family="qwen3",
        version="2507",
        context_length=40960,
        param_count="4B",
        quantization="Q4_K_M",
        license="apache-2.0",
        chat_template=True,
        size_bytes=path.stat().st_size,
        kv_bytes_per_token=147456,  # as the table of the catalog has it for Qwen3-4B
    )


def test_adapters_count_for_the_size_of_a_model(make_gguf: MakeGguf, tmp_path: Path) -> None:
    path, folder = make_gguf(), tmp_path / "adapter"
    (tmp_path / "a.gguf").write_bytes(b"x" * 10)
    folder.mkdir()
    (folder / "adapters.safetensors").write_bytes(b"x" * 20)
    adapters = [Adapter(path=str(each)) for each in (tmp_path / "a.gguf", folder, "/gone")]
    source = LocalSource(path=str(path), adapters=adapters)
    known = with_facts(msgspec.structs.replace(model(path), source=source))
    assert isinstance(known.cost, Cost)
    assert known.cost.size_bytes == path.stat().st_size + 30


def test_what_a_file_leaves_unsaid_is_derived_or_left_out(make_gguf: MakeGguf) -> None:
    facts = gguf_facts(
        make_gguf(
            architecture="llama",
            llama__block_count=2,
            llama__embedding_length=64,
            llama__attention__head_count=4,
        )
    )
    # Two layers of four heads, each with a key and a value of 16 half-precision numbers.
    assert facts.kv_bytes_per_token == 2 * 4 * (16 + 16) * 2
    assert facts.param_count == "2M"
    assert (facts.quantization, facts.license, facts.version) == ("", "", "")
    assert facts.chat_template is False


def test_the_cache_of_hybrid_models_counts_the_layers_that_have_one(make_gguf: MakeGguf) -> None:
    shape: dict[str, Any] = {
        "architecture": "hy",
        "hy__block_count": 4,
        "hy__embedding_length": 64,
        "hy__attention__head_count": 4,
    }
    every_second = gguf_facts(
        make_gguf(**shape, hy__attention__head_count_kv=2, hy__full_attention_interval=2)
    )
    each = gguf_facts(make_gguf(**shape, hy__attention__head_count_kv=[2, 0, 2, 0]))
    assert every_second.kv_bytes_per_token == each.kv_bytes_per_token == 2 * 2 * (16 + 16) * 2


@pytest.mark.parametrize("pattern", [6, [True] * 5 + [False], None])
def test_layers_with_a_window_count_with_what_they_remember(
    make_gguf: MakeGguf, pattern: object
) -> None:
    shape: dict[str, Any] = {
        "architecture": "gemma3",
        "gemma3__block_count": 6,
        "gemma3__embedding_length": 64,
        "gemma3__attention__head_count": 4,
        "gemma3__attention__sliding_window": 512,
    }
    if pattern is not None:
        shape["gemma3__attention__sliding_window_pattern"] = pattern
    facts = gguf_facts(make_gguf(**shape))
    # One layer in full, five with an eighth of 8192 tokens.
    assert facts.kv_bytes_per_token == (1 + 5 / 8) * 4 * (16 + 16) * 2


def test_a_recurrent_model_has_no_cache(make_gguf: MakeGguf) -> None:
    shape: dict[str, Any] = {
        "architecture": "mamba",
        "mamba__block_count": 64,
        "mamba__embedding_length": 2560,
        "mamba__attention__head_count": 0,
    }
    assert gguf_facts(make_gguf(**shape)).kv_bytes_per_token == 0


def test_a_model_in_several_files_is_as_large_as_all_of_them(make_gguf: MakeGguf) -> None:
    first, second, third = (make_gguf(f"big-0000{part}-of-00003.gguf") for part in (1, 2, 3))
    facts = gguf_facts(first)
    assert facts.size_bytes == 3 * first.stat().st_size
    assert facts.param_count == "6M"
    third.unlink()
    facts = gguf_facts(first)
    assert facts.size_bytes == 2 * second.stat().st_size
    assert facts.param_count == "", "not all of the tensors are here"


def test_what_the_client_said_goes_before_what_the_file_says() -> None:
    demo = DEMO_DIR / "tiny-chat-Q8_0.gguf"
    bare = with_facts(model(demo))
    assert (bare.family, bare.context_length, bare.quantization) == ("qwen3", 1024, "Q8_0")
    assert bare.cost == Cost(size_bytes=demo.stat().st_size, kv_bytes_per_token=3072)
    given = model(
        demo,
        family="mine",
        version="7",
        context_length=64,
        param_count="9B",
        quantization="Q0",
        license="secret",
        chat_template=False,
        cost=Cost(size_bytes=1, kv_bytes_per_token=2, input_per_mtok_usd=3),
    )
    assert with_facts(given) == given
    assert with_facts(bare) == bare


def test_a_folder_of_weights_tells_what_its_model_is() -> None:
    facts = folder_facts(DEMO_DIR / "mlx")
    assert facts.family == "qwen3"
    assert facts.context_length == 1024
    assert facts.chat_template is True
    assert facts.param_count == gguf_facts(DEMO_DIR / "tiny-chat-F16.gguf").param_count
    assert facts.kv_bytes_per_token == 3072
    assert facts.quantization == ""


def test_packed_weights_are_counted_as_what_they_hold(
    tmp_path: Path, make_safetensors: MakeSafetensors
) -> None:
    make_safetensors(
        tmp_path / "model-1.safetensors",
        layer__weight=("U32", [1000, 500]),  # 8 weights of 4 bits each
        layer__scales=("F16", [1000, 64]),
        layer__biases=("F16", [1000, 64]),
    )
    make_safetensors(tmp_path / "model-2.safetensors", norm__weight=("F16", [1_000_000]))
    settings = {
        "model_type": "gemma3",
        "quantization": {"bits": 4, "group_size": 64},
        "text_config": {
            "max_position_embeddings": 131072,
            "num_hidden_layers": 34,
            "num_attention_heads": 8,
            "num_key_value_heads": 4,
            "head_dim": 256,
            "sliding_window": 1024,
        },
    }
    (tmp_path / "config.json").write_text(json.dumps(settings))
    facts = folder_facts(tmp_path)
    assert facts.param_count == "5M"
    assert facts.quantization == "4bit"
    assert (facts.family, facts.context_length) == ("gemma3", 131072)
    assert facts.kv_bytes_per_token == 42752  # as the table of the catalog has it
    assert facts.chat_template is False


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 100, b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x10\0\0\0\0\0\0\0{"a": {"shape'],
)
def test_weights_that_are_none_only_count_by_their_size(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    (tmp_path / "config.json").write_bytes(content)
    facts = folder_facts(tmp_path)
    assert (facts.size_bytes, facts.param_count, facts.family) == (len(content), "", "")


@pytest.mark.parametrize("hostile", ["null", '"x"', "[1]", "-5", "1e400", "true", "9" * 30])
def test_settings_of_the_wrong_type_are_as_good_as_none(tmp_path: Path, hostile: str) -> None:
    names = (
        *("model_type", "max_position_embeddings", "num_hidden_layers", "num_attention_heads"),
        *("num_key_value_heads", "head_dim", "text_config", "quantization"),
    )
    text = ", ".join(f'"{name}": {hostile}' for name in names)
    (tmp_path / "config.json").write_text("{" + text + "}")
    facts = folder_facts(tmp_path)
    assert (facts.context_length, facts.kv_bytes_per_token) == (0, 0)


def test_named_pipes_are_no_files(tmp_path: Path) -> None:
    for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
        os.mkfifo(tmp_path / name)
    assert folder_facts(tmp_path) == Facts(chat_template=False)
    os.mkfifo(tmp_path / "model.gguf")
    piped = model(tmp_path / "model.gguf")
    assert with_facts(piped) == piped


def test_a_file_that_is_missing_or_broken_tells_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = model(tmp_path / "missing.gguf")
    assert with_facts(missing) == missing
    assert caplog.text == ""
    (tmp_path / "page.gguf").write_text("<html>404</html>")
    broken = model(tmp_path / "page.gguf")
    assert with_facts(broken) == broken
    assert "not a GGUF file" in caplog.text
    assert broken.cost is UNSET
