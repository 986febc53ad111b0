"""A secret that is split over deltas never reaches the log, and nothing else is changed."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.eventlog import stream as stream_module
from car_rpc.eventlog.shapes import KNOWN, Secrets
from car_rpc.eventlog.stream import StreamRedactor
from car_rpc.wire.events import (
    ReasoningDelta,
    Stop,
    StreamEvent,
    StreamReset,
    TextDelta,
    ToolCallDelta,
    ToolCallStart,
)
from tests.eventlog.test_redact import SHAPES

BEARER = "Bearer " + "QwErTyUiOpAsDfGhJkLzXc"
ALL = [*(secret for secret, _ in SHAPES), BEARER]
#: So much of a secret says nothing: what the longest ones begin with.
TELLS_NOTHING = len("-----BEGIN ")


def delta(said, number):
    """A delta of one of the texts of a stream."""
    return [
        TextDelta(text=said),
        ReasoningDelta(text=said),
        ToolCallDelta(index=0, id="a", arguments_delta=said),
        ToolCallDelta(index=1, id="b", arguments_delta=said),
    ][number]


def said(event):
    return event.arguments_delta if isinstance(event, ToolCallDelta) else event.text


def stored(events, secrets=KNOWN):
    redactor = StreamRedactor(secrets)
    passed = [passed for event in events for passed in redactor.push(event)]
    return [*passed, *redactor.end()]


def texts(*pieces, secrets=KNOWN):
    return [event.text for event in stored([TextDelta(text=p) for p in pieces], secrets)]


def pieces_of(text, cuts):
    places = sorted({cut % (len(text) + 1) for cut in cuts})
    return [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]


words = st.text(alphabet="sk-ghp_eyJA.I za\nxob0=/é", max_size=30)
cuts = st.lists(st.integers(0, 400), max_size=40)
talk = st.lists(words | st.sampled_from(ALL), max_size=6).map("".join)


def test_the_replacement_stands_where_the_secret_began_and_the_others_lose_their_part():
    assert texts("use sk-pr", "oj-Ab3dEf6hIj9", "lMn2pQr5t now", "!") == [
        "use [redacted:api_key]",
        "",
        " now",
        "!",
    ]


def test_only_what_may_begin_a_secret_waits():
    redactor = StreamRedactor(KNOWN)
    assert redactor.push(TextDelta(text="a word ")) == [TextDelta(text="a word ")]
    assert redactor.push(TextDelta(text="and s")) == []
    assert redactor.push(TextDelta(text="o")) == [TextDelta(text="and s"), TextDelta(text="o")]


def test_what_was_held_back_and_is_no_secret_is_the_very_event():
    events = [
        TextDelta(text="the ri"),
        TextDelta(text="sk-"),
        TextDelta(text="assessment-of-it-all"),
    ]
    assert all(a is b for a, b in zip(stored(events), events, strict=True))


@given(talk, cuts)
def test_split_anyhow_it_is_stored_as_if_it_were_whole(text, cuts):
    assert "".join(texts(*pieces_of(text, cuts))) == KNOWN.replace(text)


@given(words, st.sampled_from(ALL), words, cuts)
def test_boundaries_stay_and_texts_without_a_secret_are_byte_for_byte(before, secret, after, cuts):
    pieces = pieces_of(f"{before} {secret} {after}", cuts)
    kept = texts(*pieces)
    assert len(kept) == len(pieces)
    whole = " ".join(pieces)
    if KNOWN.replace("".join(pieces)) == "".join(pieces):
        assert " ".join(kept) == whole


@given(st.lists(st.tuples(words, st.sampled_from(ALL), words, cuts), max_size=4), st.randoms())
def test_interleaved_texts_do_not_hide_a_secret_of_one(parts, random):
    waiting = {
        number: [delta(piece, number) for piece in pieces_of(f"{before} {secret} {after}", cuts)]
        for number, (before, secret, after, cuts) in enumerate(parts)
    }
    events = []
    while any(waiting.values()):
        number = random.choice([n for n, left in waiting.items() if left])
        events.append((number, waiting[number].pop(0)))

    kept = stored([event for _, event in events])

    assert [type(event) for event in kept] == [type(event) for _, event in events]
    for number, (_, secret, _, _) in enumerate(parts):
        joined = "".join(said(e) for (n, _), e in zip(events, kept, strict=True) if n == number)
        assert secret.removeprefix("Bearer ")[TELLS_NOTHING:] not in joined


@given(st.sampled_from(ALL), st.integers(1, 100))
def test_a_secret_that_an_interruption_splits_is_not_told(secret, place):
    redactor = StreamRedactor(KNOWN)
    events = redactor.push(TextDelta(text=f"x {secret[:place]}"))
    events += redactor.cut()
    assert len(events) == 1
    events += redactor.push(TextDelta(text=f"{secret[place:]} y"))
    events += redactor.end()

    kept = "".join(map(said, events))
    assert secret.removeprefix("Bearer ")[TELLS_NOTHING:] not in kept
    assert kept.startswith("x ")
    assert kept.endswith(" y")


@given(words, st.sampled_from(ALL), words, cuts, st.integers(1, 40))
def test_events_that_come_in_groups_are_stored_as_one_by_one(before, secret, after, cuts, size):
    filler = "It was a quiet day, and nothing else was said. " * 8  # groups longer than a few words
    events: list[StreamEvent] = [
        TextDelta(text=p) for p in pieces_of(f"{filler}{before} {secret} {after}{filler}", cuts)
    ]
    redactor = StreamRedactor(KNOWN)
    grouped, changed = [], False
    for start in range(0, len(events), size):
        grouped += redactor.push_all(events[start : start + size])
        changed = changed or redactor.changed
    grouped += redactor.end()
    assert grouped == stored(events)
    assert secret not in "".join(event.text for event in grouped)
    assert changed or redactor.changed


def test_events_of_other_kinds_keep_their_place_and_do_not_wait_for_a_few_letters():
    call = ToolCallStart(index=0, id="a", name="look")
    redactor = StreamRedactor(KNOWN)
    redactor.push(TextDelta(text="it is a b"))
    assert redactor.push(call) == [TextDelta(text="it is a b"), call]


def test_what_waits_behind_a_beginning_is_bounded():
    redactor = StreamRedactor(KNOWN)
    assert redactor.push(TextDelta(text="sk-abc")) == []
    behind = [Stop(reason="end_turn")] * stream_module.MAX_HELD_EVENTS
    passed = [event for stop in behind for event in redactor.push(stop)]
    assert passed[0] == TextDelta(text="[redacted:api_key]")
    assert passed[1:] == behind


@pytest.mark.parametrize(
    ("begin", "unit", "end"),
    [
        ("-----BEGIN PRIVATE KEY-----\n", "MIIEow+/IBAA\n", "-----END PRIVATE KEY-----"),
        ("sk-", "aB3", ""),
        ("eyJhbGciOiJIUzI1NiJ9.eyJ", "aB3", ""),
        ("eyJ", "aB3", ".eyJhbGciOiJIUzI1NiJ9."),
    ],
)
def test_of_a_secret_without_end_only_so_much_is_held_and_nothing_told(begin, unit, end):
    redactor = StreamRedactor(KNOWN)
    count = 3 * stream_module.MAX_HELD_CHARS // len(unit)
    passed = redactor.push(TextDelta(text=f"x {begin}"))
    for n in range(count):
        passed += redactor.push(TextDelta(text=unit))
        assert n + 2 - len(passed) <= stream_module.MAX_HELD_EVENTS
    passed += redactor.push(TextDelta(text=f"{end} y"))
    passed += redactor.end()

    kept = "".join(map(said, passed))
    assert re.fullmatch(r"x \[redacted:\w+\] y", kept)


def test_a_reset_ends_the_texts():
    reset = StreamReset(reason="again")
    events = [TextDelta(text="sk-abc"), reset, TextDelta(text="defghijklmnopqrstu")]
    assert stored(events) == events


def test_what_a_configured_pattern_matches_is_replaced_also_where_it_is_split():
    secrets = Secrets(patterns=[re.compile(r"(?i)customer-\d{4,}")])
    assert texts("of Cust", "omer-12", "345 and", " more", secrets=secrets) == [
        "of [redacted:pattern]",
        "",
        " and",
        " more",
    ]
    long = ["x" * 1000, " customer-", "1" * 500, "1" * 500, " y" * 500]
    assert "".join(texts(*long, secrets=secrets)) == secrets.replace("".join(long))


@given(st.lists(st.sampled_from(["ab", "a", "b", "12", "-", " ", *ALL])).map("".join), cuts)
def test_with_patterns_too_it_is_stored_as_if_it_were_whole(text, cuts):
    secrets = Secrets(patterns=[re.compile(r"a{2,}b+"), re.compile(r"(?<!b)12-+")])
    assert "".join(texts(*pieces_of(text, cuts), secrets=secrets)) == secrets.replace(text)


@pytest.mark.parametrize(
    "unit", ["eyJaaaaaaaaa.", "sk-", "-----BEGIN PRIVATE KEY-----", "xox", "g"]
)
@pytest.mark.parametrize("size", [1, 1_000_000])
def test_hostile_streams_take_linear_time(unit, size):
    """Quadratic work would need hours here; the test's time limit is the check."""
    text = unit * (100_000 // len(unit)) if size == 1 else unit * (size // len(unit)) + "!"
    pieces = [text[at : at + size] for at in range(0, len(text), size)] if size > 1 else list(text)
    texts(*pieces)
