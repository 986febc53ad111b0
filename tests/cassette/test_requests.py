"""When two requests are the same one to a cassette."""

import base64
import hashlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.cassette.requests import VOLATILE, key_of, normalised
from car_rpc.eventlog.redact import JsonValue
from car_rpc.wire.inference import EmbedParams, GenerateRequest
from car_rpc.wire.models import ModelsRegisterParams
from car_rpc.wire.outcomes import OutcomesResolvePendingParams
from car_rpc.wire.speech import TranscribeParams

PIXEL = b"\x89PNG one pixel"
BLOB = {"type": "blob", "sha256": hashlib.sha256(PIXEL).hexdigest()}

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text() | st.sampled_from(["sk-" + "a1" * 20, "base64", "path"]),
    lambda inner: st.lists(inner, max_size=4)
    | st.dictionaries(
        st.sampled_from(["type", "data", "path", "api_key", "headers", "prompt", "stream"])
        | st.text(max_size=3),
        inner,
        max_size=5,
    ),
    max_leaves=8,
)  # fmt: skip
params = st.dictionaries(
    st.sampled_from([*VOLATILE, "prompt", "stream", "messages", "x"]), json_values
)


def files(path: str) -> bytes | None:
    return PIXEL if path == "/pixel.png" else None


def read(value: object, params_type: Any = GenerateRequest) -> Any:
    return normalised(json.dumps(value).encode(), params_type, files)


@given(params)
def test_to_normalise_again_changes_nothing(value: Any) -> None:
    once = read(value)
    assert read(once) == once
    assert key_of("generate", read(once)) == key_of("generate", once)


@given(params, st.randoms(use_true_random=False))
def test_the_order_of_members_does_not_matter(value: Any, random: Any) -> None:
    def shuffled(each: Any) -> Any:
        if isinstance(each, dict):
            members = [(name, shuffled(item)) for name, item in each.items()]
            random.shuffle(members)
            return dict(members)
        return [shuffled(item) for item in each] if isinstance(each, list) else each

    assert key_of("m", read(shuffled(value))) == key_of("m", read(value))


@given(json_values)
def test_anything_else_is_told_apart(value: JsonValue) -> None:
    one = key_of("generate", read({"prompt": "a", "x": value}))
    assert one != key_of("generate", read({"prompt": "b", "x": value}))
    assert one != key_of("embed", read({"prompt": "a", "x": value}))


@pytest.mark.parametrize("name", sorted(VOLATILE))
def test_what_differs_from_run_to_run_is_left_out(name: str) -> None:
    assert read({"prompt": "a", name: "x"}) == {"prompt": "a"}


def test_traces_are_left_out_wherever_they_are_named() -> None:
    asked = {"outcomes": [{"trace_id": "tr_1", "success": True}]}
    assert read(asked, OutcomesResolvePendingParams) == {"outcomes": [{"success": True}]}


def test_a_default_that_is_said_is_left_out() -> None:
    assert read({"prompt": "a", "stream": False}) == {"prompt": "a"}
    assert read({"prompt": "a", "stream": True}) == {"prompt": "a", "stream": True}
    assert read({"prompt": "a", "stream": 0}) == {"prompt": "a", "stream": 0}
    assert read({"texts": ["a"], "is_query": False}, EmbedParams) == {"texts": ["a"]}


def test_a_number_has_one_form() -> None:
    one, other = ({"params": {"temperature": value}} for value in (1, 1.0))
    assert key_of("m", read(one)) == key_of("m", read(other))
    assert key_of("m", read({"x": True})) != key_of("m", read({"x": 1}))


def test_media_are_their_hash_wherever_they_come_from() -> None:
    inline = {"type": "base64", "media_type": "image/png", "data": base64.b64encode(PIXEL).decode()}
    logged = {**BLOB, "media_type": "image/png"}
    for source in (inline, logged, {"type": "path", "path": "/pixel.png"}):
        asked = {"prompt": "a", "images": [{"type": "image", "source": source}]}
        assert read(asked) == {"prompt": "a", "images": [{"type": "image", "source": BLOB}]}


def test_a_recording_is_its_hash_wherever_it_comes_from() -> None:
    for given_as in (
        {"audio_b64": base64.b64encode(PIXEL).decode()},
        {"audio_path": "/pixel.png"},
        {"audio_b64": {"sha256": BLOB["sha256"]}},
    ):
        assert read({**given_as, "language": "en"}, TranscribeParams) == {
            "language": "en",
            "audio": BLOB,
        }


@pytest.mark.parametrize(
    "source",
    [
        {"type": "path", "path": "/no/such/file"},
        {"type": "base64", "media_type": "image/png", "data": "no base64!"},
        {"type": "url", "url": "https://example.org/a.png"},
    ],
)
def test_what_cannot_be_read_stays_what_it_is(source: Any) -> None:
    assert read({"images": [{"source": source}]}) == {"images": [{"source": source}]}


def test_secrets_are_replaced() -> None:
    key = "sk-" + "a1B2" * 10
    source = {"type": "openai_compat", "headers": {"Authorization": "Bearer x", "x-team": "y"}}
    found = read({"model": {"id": "a/b:c", "source": source, "note": key}}, ModelsRegisterParams)
    assert found["model"]["source"]["headers"] == {"Authorization": "***", "x-team": "***"}
    assert key not in json.dumps(found)


@pytest.mark.parametrize("raw", [b"[1,2]", b"null", b'"x"', b"1e999", b'{"a":1e999}', b"\xff"])
def test_parameters_that_no_method_takes_are_told_apart_too(raw: bytes) -> None:
    found = normalised(raw, GenerateRequest, files)
    assert key_of("generate", found) != key_of(
        "generate", normalised(b"{}", GenerateRequest, files)
    )
