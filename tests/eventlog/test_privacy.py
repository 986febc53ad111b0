"""Patterns of the user's own: checked when they are read, and replaced like secrets."""

import json

import pytest

from car_rpc.eventlog.privacy import PrivacyPolicy
from car_rpc.eventlog.redact import redact_json
from car_rpc.eventlog.shapes import NONE


@pytest.mark.parametrize(
    ("pattern", "said"),
    [
        ("(", "is no regular expression"),
        ("a*", "matches the empty text"),
        ("a|", "matches the empty text"),
        (r"(a+)+$", "repeats a group"),
        (r"(?:a|a)*b", "repeats a group"),
        (r"(ab){2,}c", "repeats a group"),
        (r"(?x) (a+) + b", "repeats a group"),
    ],
)
def test_a_pattern_that_cannot_be_searched_for_is_refused(pattern, said):
    with pytest.raises(ValueError, match=f"pattern 2 of `patterns` {said}"):
        PrivacyPolicy(patterns=["fine", pattern])


@pytest.mark.parametrize("pattern", [r"\(a\)+b", "[)]+x", r"(?:ab)?c", r"[]\])]{2}", "(?i)acme"])
def test_what_only_looks_like_a_repeated_group_is_fine(pattern):
    PrivacyPolicy(patterns=[pattern])


def test_its_matches_are_replaced_wherever_a_string_has_them():
    secrets = PrivacyPolicy(patterns=[r"ACME-\d{4}", "(?i)project x"]).secrets()
    data = {"a": ["of ACME-12345"], "Project X": 1, "k": "sk-" + "a1B2" * 8}

    assert json.loads(redact_json(json.dumps(data).encode(), secrets)) == {
        "a": ["of [redacted:pattern]5"],
        "[redacted:pattern]": 1,
        "k": "[redacted:api_key]",
    }


def test_without_shapes_the_names_of_secrets_count_still():
    key = "sk-" + "a1B2" * 8
    data = {"text": key, "headers": {"X-A": "v"}, "api_key": key}

    assert json.loads(redact_json(json.dumps(data).encode(), NONE)) == {
        "text": key,
        "headers": {"X-A": "***"},
        "api_key": "***",
    }
