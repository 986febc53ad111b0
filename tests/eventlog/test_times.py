"""Times as text sort like times, and bounds of a client compare exactly."""

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.errors import CarError
from car_rpc.eventlog.times import bound_to_text, to_text

moments = st.datetimes(timezones=st.just(UTC)).filter(lambda moment: 1 < moment.year < 9999)


def test_a_time_is_written_in_utc_with_milliseconds():
    moment = datetime(2026, 1, 31, 8, 30, tzinfo=timezone(timedelta(hours=2)))

    assert to_text(moment) == "2026-01-31T06:30:00.000Z"
    assert to_text(moment.replace(microsecond=999_999)) == "2026-01-31T06:30:00.999Z"


@pytest.mark.parametrize(
    ("given_text", "expected"),
    [
        ("2026-01-31T08:30:00Z", "2026-01-31T08:30:00.000Z"),
        ("2026-01-31 08:30:00.5+02:00", "2026-01-31T06:30:00.500Z"),
        ("2026-01-31T08:30:00.0001Z", "2026-01-31T08:30:00.001Z"),
    ],
)
def test_a_bound_is_normalised(given_text, expected):
    assert bound_to_text(given_text, "$.since") == expected


@pytest.mark.parametrize(
    "text",
    ["", "now", "1767225600", "2026-01-31", "2026-01-31T08:30:00", "0001-01-01T00:00:00+14:00"],
)
def test_a_bound_that_is_no_exact_time_is_refused_by_its_path(text):
    with pytest.raises(CarError) as raised:
        bound_to_text(text, "$.since")

    assert raised.value.kind == "invalid_params"
    assert raised.value.data["path"] == "$.since"


@given(moments, moments)
def test_an_event_is_at_or_after_a_bound_exactly_if_its_written_time_is(event, bound):
    written = event.replace(microsecond=event.microsecond // 1000 * 1000)

    assert (to_text(event) >= bound_to_text(bound.isoformat(), "$.since")) == (written >= bound)
