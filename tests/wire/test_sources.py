from typing import Any, get_args

import msgspec
import pytest

from car_rpc.wire.models import ModelSource
from car_rpc.wire.sources import is_local, source_label

HTTP = {"type": "openai_compat", "model": "m"}

CASES: list[tuple[dict[str, Any], bool, str]] = [
    ({"type": "local", "path": "/m.gguf"}, True, "local:/m.gguf"),
    ({"type": "local", "hf_repo": "a/b", "hf_filename": "c"}, True, "local:a/b"),
    ({"type": "mlx", "path": "/m", "hf_repo": "a/b"}, True, "mlx:a/b"),
    ({**HTTP, "endpoint": "https://api.example.com"}, False, "remote:https://api.example.com"),
    ({**HTTP, "endpoint": "http://localhost:1234"}, True, "remote:http://localhost:1234"),
    ({**HTTP, "endpoint": "http://localhost.evil.com"}, False, "remote:http://localhost.evil.com"),
    ({**HTTP, "endpoint": "http://[::1]"}, True, "remote:http://[::1]"),
    (
        {"type": "remote_api", "model": "m", "endpoint": "http://10.1.2.3"},
        False,
        "remote:http://10.1.2.3",
    ),
    ({"type": "ollama", "model_tag": "m:1"}, True, "ollama:http://127.0.0.1:11434:m:1"),
    (
        {"type": "vllm_mlx", "endpoint": "http://10.1.2.3", "model_name": "m"},
        False,
        "vllm-mlx:http://10.1.2.3:m",
    ),
    ({"type": "delegated", "hint": "gpt"}, False, "delegated:gpt"),
    ({"type": "delegated"}, False, "delegated:(none)"),
    ({"type": "system", "engine": "pocketsphinx"}, True, "system:pocketsphinx"),
    ({"type": "fake", "script": []}, True, "fake"),
]


@pytest.mark.parametrize(("source", "local", "label"), CASES, ids=lambda each: str(each)[:40])
def test_a_source_says_where_its_model_runs(
    source: dict[str, Any], local: bool, label: str
) -> None:
    converted = msgspec.convert(source, ModelSource)
    assert is_local(converted) is local
    assert source_label(converted) == label


def test_a_name_in_front_of_another_host_is_no_place() -> None:
    source = {"type": "openai_compat", "endpoint": "http://127.0.0.1.far", "model": "m"}
    assert not is_local(msgspec.convert(source, ModelSource))


@pytest.mark.parametrize("endpoint", ["http://localhost:1@far.example", "http://me@far.example"])
def test_an_address_with_somebody_in_front_of_its_host_is_none(endpoint: str) -> None:
    source = {"type": "openai_compat", "endpoint": endpoint, "model": "m"}
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert(source, ModelSource)


def test_every_kind_of_source_is_among_these_cases() -> None:
    tags = {str(kind.__struct_config__.tag) for kind in get_args(ModelSource)}
    assert tags == {source["type"] for source, _, _ in CASES}
