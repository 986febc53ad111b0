"""Secrets never reach the disk, and nothing else is changed."""

import json

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.eventlog.redact import redact, redact_json
from car_rpc.eventlog.shapes import KNOWN

# Put together here, so that no scanner takes this file for a leak.
OPENAI = "sk-" + "proj-Ab3dEf6hIj9lMn2pQr5t"
ANTHROPIC = "sk-ant-" + "api03-Ab3dEf6hIj9lMn2pQr5t_x-Y"
GITHUB = "ghp_" + "aB3" * 12
GITHUB_OAUTH = "gho_" + "aB3" * 12
GITHUB_FINE = "github_pat_" + "11ABCDEFG0" * 5
AWS = "AKIA" + "IOSFODNN7EXAMPLE"
GOOGLE = "AIza" + "SyA1234567890abcdefghijklmnopqrstuv"
SLACK = "xoxb-" + "123456789012-abcdefGHIJKL"
HUGGINGFACE = "hf_" + "AbCdEfGhIjKlMnOpQrStUvWxYz012345"
JWT = "eyJhbGciOiJIUzI1NiJ9" + ".eyJzdWIiOiIxMjM0In0" + ".dozjgNryP4J3jVmN"
PEM = (
    "-----BEGIN RSA PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-128-CBC,0F\n\n"
    "MIIEow+/IBAAKCAQEA\n-----END RSA PRIVATE KEY-----"
)

SHAPES = [
    (OPENAI, "api_key"),
    (ANTHROPIC, "api_key"),
    (GITHUB, "github_token"),
    (GITHUB_OAUTH, "github_token"),
    (GITHUB_FINE, "github_token"),
    (AWS, "aws_key"),
    (GOOGLE, "google_key"),
    (SLACK, "slack_token"),
    (HUGGINGFACE, "huggingface_token"),
    (JWT, "jwt"),
    (PEM, "private_key"),
]


def through_disk(value):
    return json.loads(redact_json(json.dumps(value).encode()))


@pytest.mark.parametrize(("secret", "kind"), SHAPES)
@pytest.mark.parametrize("around", ["{}", "use {} now", "line\n{}\nline", '"{}"', "key={}, é"])
def test_a_secret_of_known_shape_is_replaced_wherever_it_stands(secret, kind, around):
    text = around.format(secret)
    expected = around.format(f"[redacted:{kind}]")

    assert KNOWN.replace(text) == expected
    assert through_disk({"a": [{"b": text}]}) == {"a": [{"b": expected}]}


def test_the_token_after_bearer_is_replaced_and_the_word_kept():
    assert KNOWN.replace("Bearer abc12345xyz") == "Bearer [redacted:bearer_token]"
    assert KNOWN.replace("curl -H 'authorization: bearer QwErTyUiOpAsDfGhJkLzXc'") == (
        "curl -H 'authorization: bearer [redacted:bearer_token]'"
    )


@pytest.mark.parametrize(
    "text",
    [
        "the bearer instruments were lost",
        "a risk-assessment-of-the-whole-plan",
        "sk-short",
        "though it was a ghp_ prefix",
        "AKIA stands for nothing",
        "eyJ is how base64 of a JSON object begins",
        "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----",
    ],
)
def test_ordinary_text_stays(text):
    assert KNOWN.replace(text) == text


def test_a_private_key_that_was_cut_off_is_replaced_to_the_end():
    assert KNOWN.replace("x " + PEM[:60]) == "x [redacted:private_key]"


def test_several_secrets_in_one_string_are_all_replaced():
    assert KNOWN.replace(f"{AWS} {OPENAI} {AWS}") == (
        "[redacted:aws_key] [redacted:api_key] [redacted:aws_key]"
    )


@pytest.mark.parametrize(
    "name",
    [
        "authorization",
        "Authorization",
        "api_key",
        "X-API-Key",
        "password",
        "client_secret",
        "token",
    ],
)
def test_the_value_under_the_name_of_a_secret_is_masked(name):
    assert through_disk({"deep": [{name: "hunter2"}]}) == {"deep": [{name: "***"}]}
    assert through_disk({name: ["a", "b"]}) == {name: ["***", "***"]}
    assert through_disk({name: 1234}) == {name: "***"}


def test_header_values_are_masked_but_names_of_variables_are_not():
    source = {"headers": {"X-Custom": "literal", "X-Other": {"env": "NAME"}}, "api_key_env": "KEY"}

    assert through_disk(source) == {
        "headers": {"X-Custom": "***", "X-Other": {"env": "NAME"}},
        "api_key_env": "KEY",
    }


def test_counts_and_schemas_with_similar_names_stay():
    data = {
        "usage": {"completion_tokens": 5},
        "max_tokens": 7,
        "progress_token": "p1",
        "tools": [{"parameters": {"properties": {"password": {"type": "string"}}}}],
        "password": None,
        "token": True,
    }

    assert through_disk(data) == data


def test_a_secret_as_a_member_name_is_replaced():
    assert through_disk({OPENAI: 1}) == {"[redacted:api_key]": 1}


def test_an_escaped_secret_is_found():
    escaped = "".join(f"\\u{ord(char):04x}" for char in OPENAI)

    assert redact_json(f'{{"a":"{escaped}"}}'.encode()) == b'{"a":"[redacted:api_key]"}'
    assert redact_json(b'{"pass\\u0077ord":"x"}') == b'{"password":"***"}'


@pytest.mark.parametrize("text", [b'{ "a" : 1E2 }', b'{"a":"\\u00e9", "token":null}'])
def test_without_a_secret_the_bytes_stay_as_they_are(text):
    assert redact_json(text) is text


@pytest.mark.parametrize("text", [b"[]", b"1", b"{", b"", b'{"a":"\xff"}', b'{"a":"\\ud800"}'])
def test_what_is_no_json_object_is_refused(text):
    with pytest.raises((msgspec.DecodeError, UnicodeDecodeError)):
        redact_json(text)


@pytest.mark.parametrize(
    "unit",
    ["eyJaaaaaaaaa.", "eyJaaaaaaaa", "-----BEGIN PRIVATE KEY-----", "bearer ", "sk-", "-", " "],
)
def test_hostile_text_takes_linear_time(unit):
    """Quadratic patterns would need hours here; the test's time limit is the check."""
    KNOWN.replace(unit * (2_000_000 // len(unit)) + "!")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=4))
def test_redacted_data_is_valid_json_of_the_redacted_value(value):
    assert json.loads(redact_json(json.dumps(value).encode())) == redact(value)


@given(st.dictionaries(st.text(max_size=12), json_values, max_size=4))
def test_beside_a_long_text_nothing_else_is_found_or_missed(value):
    value = {**value, "image": "iVBORw0KGgo" * 5000}
    assert json.loads(redact_json(json.dumps(value).encode())) == redact(value)


@pytest.mark.parametrize(("secret", "kind"), SHAPES)
def test_a_secret_in_a_long_text_and_a_name_beside_it_are_found(secret, kind):
    text = "word " * 20_000
    assert through_disk({"text": f"{text}{secret} {text}", "token": "x"}) == {
        "text": f"{text}[redacted:{kind}] {text}",
        "token": "***",
    }


@pytest.mark.parametrize(("secret", "kind"), SHAPES)
def test_a_secret_and_a_name_beside_vectors_are_found(secret, kind):
    rows = ",".join(["-0.0123456789,1e-7,42"] * 1000)
    text = f'{{"vectors":[{rows}],"model":{json.dumps(secret)},"api_key":7}}'
    redacted = json.loads(redact_json(text.encode()))
    assert redacted["vectors"] == json.loads(text)["vectors"]
    assert (redacted["model"], redacted["api_key"]) == (f"[redacted:{kind}]", "***")


def test_vectors_without_a_secret_are_not_even_made(monkeypatch):
    row = b'{"embeddings":[[%b]],"model":"m"}' % b",".join([b"0.25"] * 1000)
    monkeypatch.setattr("car_rpc.eventlog.redact.decode_object", None)
    assert redact_json(row) is row


@pytest.mark.parametrize("name", ['"Token"', '"api-key" ', '"headers"\n\t ', '"passwor\\u0064"'])
def test_a_name_is_found_however_it_is_written(name):
    rows = ",".join(['{"text":"the token","key":"a"}'] * 100)
    text = f'{{"rows":[{rows}],{name}:{{"x":"y","password":"z"}}}}'
    assert json.loads(redact_json(text.encode())) == redact(json.loads(text))


def test_texts_that_end_like_a_name_are_no_names(monkeypatch):
    row = b'{"events":[%b]}' % b",".join([b'{"text":"the token"}', b'{"text":"a key"}'] * 64)
    monkeypatch.setattr("car_rpc.eventlog.redact.redact", None)  # it is not searched at all
    assert redact_json(row) is row


@given(st.text(max_size=30), st.sampled_from(SHAPES), st.text(max_size=30))
def test_a_secret_between_separators_never_survives(before, shape, after):
    secret, _ = shape

    assert secret not in KNOWN.replace(f"{before} {secret} {after}")
