import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.cli.knobs import described
from car_rpc.errors import CarError
from car_rpc.host.configuration import (
    FILE_NAME,
    MAX_FILE_BYTES,
    Configuration,
    knobs,
    line_of,
    load,
)

PAGE = Path(__file__).parents[2] / "docs" / "CONFIGURATION.md"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / FILE_NAME


def refusal(file: Path, text: str | bytes, **environ: str) -> str:
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(CarError) as caught:
        load(file, environ)
    assert caught.value.kind == "invalid_params"
    assert "car-rpc config" in caught.value.detail
    return caught.value.detail.removeprefix(str(file)).removeprefix(", ")


def test_without_a_file_everything_has_its_default(file: Path) -> None:
    assert load(file, {}) == Configuration()


def test_a_file_that_was_named_must_be_there(file: Path) -> None:
    with pytest.raises(CarError, match="there is no such file") as caught:
        load(file, {}, needed=True)
    assert (caught.value.kind, caught.value.data["file"]) == ("not_found", str(file))


def test_a_file_that_cannot_be_read_is_a_matter_of_files(tmp_path: Path) -> None:
    with pytest.raises(CarError) as caught:
        load(tmp_path, {})
    assert caught.value.kind == "io_error"


def test_an_error_says_for_programs_where_it_is(file: Path) -> None:
    file.write_text("[retry]\n\nmax_retrys = 3")
    with pytest.raises(CarError) as caught:
        load(file, {})
    data = caught.value.data
    assert (data["file"], data["line"], data["path"]) == (str(file), 3, "$.retry.max_retrys")
    file.write_text("")
    with pytest.raises(CarError) as caught:
        load(file, {"CAR_RETRY_MAX_RETRIES": "many"})
    assert caught.value.data["variable"] == "CAR_RETRY_MAX_RETRIES"


def test_the_environment_goes_before_the_file(file: Path) -> None:
    file.write_text("[retry]\nmax_retries = 3\nbackoff_cap_ms = 7\n")
    made = load(file, {"CAR_RETRY_MAX_RETRIES": "4", "CAR_BREAKER_COOLDOWN_MS": " 1.5 "})
    assert (made.retry.max_retries, made.retry.backoff_cap_ms) == (4, 7)
    assert made.breaker.cooldown_ms == 1.5


def test_an_empty_variable_says_nothing(file: Path) -> None:
    assert load(file, {"CAR_RETRY_MAX_RETRIES": " "}) == Configuration()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[retry]\n\nmax_retrys = 3", "line 3: `retry.max_retrys`: it is unknown; did you mean"),
        ("\n[breakfast]\n", "line 2: `breakfast`: it is unknown; did you mean `breaker`?"),
        ("a = 1", "line 1: `a`: it is unknown; known are retry, breaker"),
        (
            "[routing]\nquality_weight = 0.9",
            "line 1: `routing.latency_weight`: the three weights are given together",
        ),
        (
            "[routing.pools.p]\nmembers = []",
            "line 2: `routing.pools[...].members`: Expected `array`",
        ),
        ("[http]\nidle_ms = 0", "line 2: `http.idle_ms`: Expected `int` >= 1"),
        ("[retry]\nmax_retries = -1", "line 2: `retry.max_retries`: Expected `int` >= 0"),
        ("[retry]\n# two\nmax_retries = 'x'", "line 3: `retry.max_retries`: Expected `int`"),
        ("retry.max_retries = 1.5", "line 1: `retry.max_retries`: Expected `int`"),
        ("[breaker]\nweight_4xx = 7", "line 2: `breaker.weight_4xx`: Invalid enum value 7"),
        ("retry = 3", "line 1: `retry`: Expected `object`"),
        ("[retry]\nmax_retries = 1\nmax_retries = 1", "line 3: Cannot overwrite a value"),
        ("[retry", "line 1: Expected ']'"),
        (b"[retry]\n# caf\xe9\n", "line 2: this is not UTF-8"),
        (b"#" * (MAX_FILE_BYTES + 1), f": it is longer than {MAX_FILE_BYTES} bytes"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(file: Path, text: str | bytes, said: str) -> None:
    assert refusal(file, text).startswith(said)


def test_a_wrong_value_of_the_environment_is_refused_by_the_variable_s_name(file: Path) -> None:
    said = refusal(file, "", CAR_RETRY_MAX_RETRIES="many")
    assert said.startswith("environment variable CAR_RETRY_MAX_RETRIES: Expected `int`")


def test_patterns_for_the_event_log_are_checked_where_they_are_read(file: Path) -> None:
    file.write_text("[privacy]\nlevel = 'metadata'\npatterns = ['ACME-\\d+']\n")
    privacy = load(file, {}).privacy
    assert (privacy.level, privacy.patterns) == ("metadata", [r"ACME-\d+"])
    assert load(file, {"CAR_PRIVACY_PATTERNS": "['x+']"}).privacy.patterns == ["x+"]

    said = refusal(file, "[privacy]\npatterns = ['fine', '(']\n")
    assert said.startswith("line 1: `privacy`: pattern 2 of `patterns` is no regular expression")
    said = refusal(file, "", CAR_PRIVACY_PATTERNS="['x*']")
    assert "CAR_PRIVACY_PATTERNS: pattern 1 of `patterns` matches the empty text" in said
    said = refusal(file, "[privacy]\nlevel = 'all'\n")
    assert said.startswith("line 2: `privacy.level`: Invalid enum value 'all'")


RULES = """
[[policy]]
id = "a"
action = "require_local"

[[policy]]
id = "b"
action = "deny"
[policy.match]
tools = ["shell"]
tool_arguments = {"/cmd" = '^rm "x"'}
"""


def test_rules_are_read_in_their_order_and_shown_as_they_are_written(file: Path) -> None:
    file.write_text(RULES)
    rules = load(file, {}).policy
    assert [rule.id for rule in rules] == ["a", "b"]
    assert rules[1].match.tool_arguments == {"/cmd": '^rm "x"'}
    file.write_text("\n".join(described(file, load(file, {}))))
    assert load(file, {}).policy == rules


@pytest.mark.parametrize(
    ("added", "said"),
    [
        (
            "\n[[policy]]\naction = 'deny'",
            "line 13: `policy[2]`: Object missing required field `id`",
        ),
        ("[[policy]]\nid = 'c'\naction = 'no'", "line 14: `policy[2].action`: Invalid enum value"),
        ("[[policy]]\nid='b'\naction='deny'", "line 13: `policy[2].id`: the id 'b' stands twice"),
        (
            "[[policy]]\nid='c'\naction='deny'\nmatch.model=['x']",
            "line 12: `policy[2].match`: Object contains unknown field `model`",
        ),
        (
            "[[policy]]\nid='c'\naction='redact'\npatterns=['x*']",
            "line 12: `policy[2]`: rule 'c': the pattern 'x*' matches the empty text",
        ),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_with_its_line(
    file: Path, added: str, said: str
) -> None:
    assert refusal(file, RULES + added).startswith(said)


def test_rules_are_no_table(file: Path) -> None:
    said = refusal(file, "[policy]\nid = 'x'\naction = 'deny'")
    assert said.startswith("line 1: `policy`: Expected `array`, got `object`")


def test_a_variable_of_a_section_that_names_no_knob_is_refused(file: Path) -> None:
    said = refusal(file, "", CAR_RETRY_MAX_RETRYS="3")
    assert "CAR_RETRY_MAX_RETRYS: it is unknown; did you mean CAR_RETRY_MAX_RETRIES?" in said
    assert load(file, {"CAR_HOME": "/x", "CAR_SOMETHING": "1"}) == Configuration()


@given(st.text() | st.lists(st.sampled_from("[retry]\n =.\"'1{}#")).map("".join))
def test_any_text_is_read_or_refused(text: str) -> None:
    assert 1 <= line_of(text, ["retry", "max_retries"]) <= len(text.splitlines()) + 1


def test_every_knob_is_shown_with_its_effect_and_what_differs_with_its_default(file: Path) -> None:
    file.write_text("[retry]\nmax_retries = 9\n")
    lines = list(described(file, load(file, {})))
    assert lines[0] == f"# {file}"
    assert "max_retries = 9  # instead of 2" in lines
    shown = "\n".join(lines)
    for knob in knobs():
        assert knob.variable in shown
    file.write_text(shown)
    assert load(file, {}).retry.max_retries == 9, "what is shown is a configuration itself"


def test_the_example_of_the_page_is_a_configuration(file: Path) -> None:
    (example,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    file.write_text(example)
    made = load(file, {})
    assert (made.retry.max_retries, made.breaker.cooldown_ms) == (1, 60000)
    assert [rule.id for rule in made.policy] == ["embed-here"]
