"""Which key is taken next, whatever became of the ones before."""

from collections import Counter
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.backends.openai_compat.key_pool import (
    COOLDOWN_MS,
    MIN_COOLDOWN_MS,
    Counts,
    Key,
    KeyId,
    KeyPool,
)
from car_rpc.errors import CarError

SERVER = "http://server"
KEYS = [Key(name, f"secret-{name}") for name in ("A", "B", "C")]
REFUSED = CarError("unauthorized", "no")


def limited(**data: Any) -> CarError:
    return CarError("rate_limited", "slow", **data)


def lease(pool: KeyPool, now_ms: float = 0, conversation: str | None = None) -> Key:
    return pool.lease(SERVER, KEYS, conversation, now_ms)


def names(pool: KeyPool, count: int, now_ms: float = 0) -> list[str]:
    return [lease(pool, now_ms).name for _ in range(count)]


def test_keys_take_turns() -> None:
    assert names(KeyPool(), 7) == ["A", "B", "C", "A", "B", "C", "A"]


def test_a_rate_limited_key_is_passed_over_for_as_long_as_the_server_says() -> None:
    pool = KeyPool()
    pool.failed(SERVER, KEYS[0], limited(retry_after_ms=5000), now_ms=100)
    assert names(pool, 4, now_ms=5099) == ["B", "C", "B", "C"]
    assert "A" in names(pool, 3, now_ms=5100)


@pytest.mark.parametrize(
    ("data", "rest_ms"), [({}, COOLDOWN_MS), ({"retry_after_ms": 0}, MIN_COOLDOWN_MS)]
)
def test_a_rest_has_a_length_when_the_server_gives_none(data: Any, rest_ms: int) -> None:
    pool = KeyPool()
    pool.failed(SERVER, KEYS[0], limited(**data), now_ms=0)
    assert pool.condition(KeyId(SERVER, "A"), 0) == (rest_ms, False)
    assert pool.condition(KeyId(SERVER, "A"), rest_ms) == (0, False)


def test_without_a_free_key_the_one_that_is_free_soonest_is_taken() -> None:
    pool = KeyPool()
    for key, wait_ms in zip(KEYS, (9000, 3000, 6000), strict=True):
        pool.failed(SERVER, key, limited(retry_after_ms=wait_ms), now_ms=0)
    assert lease(pool).name == "B"
    assert pool.free_in_ms(SERVER, KEYS, 1000) == 2000


def test_a_refused_key_comes_last_until_it_is_accepted() -> None:
    pool = KeyPool()
    pool.failed(SERVER, KEYS[0], REFUSED, now_ms=0)
    pool.failed(SERVER, KEYS[1], limited(), now_ms=0)
    pool.failed(SERVER, KEYS[2], limited(), now_ms=0)
    assert lease(pool).name == "B"
    pool.succeeded(SERVER, KEYS[0])
    assert lease(pool).name == "A"


def test_where_all_are_refused_they_are_tried_all_the_same() -> None:
    pool = KeyPool()
    for key in KEYS:
        pool.failed(SERVER, key, REFUSED, now_ms=0)
    assert names(pool, 3) == ["A", "B", "C"]
    assert pool.free_in_ms(SERVER, KEYS, 1e12) == float("inf")


def test_a_new_key_in_the_old_place_begins_anew() -> None:
    pool = KeyPool()
    pool.failed(SERVER, KEYS[0], REFUSED, now_ms=0)
    pool.failed(SERVER, KEYS[0], limited(), now_ms=0)
    rotated = [Key("A", "another secret"), *KEYS[1:]]
    assert pool.lease(SERVER, rotated, None, 0).name == "A"
    assert pool.condition(KeyId(SERVER, "A"), 0) == (0, False)


def test_other_failures_say_nothing_about_the_key() -> None:
    pool = KeyPool()
    pool.failed(SERVER, KEYS[0], CarError("provider_error", "down"), now_ms=0)
    assert lease(pool).name == "A"


def test_a_server_knows_nothing_of_the_keys_of_another() -> None:
    pool = KeyPool()
    pool.failed("http://other", KEYS[0], REFUSED, now_ms=0)
    assert lease(pool).name == "A"


def test_a_conversation_keeps_its_key_while_that_is_free() -> None:
    pool = KeyPool()
    home = lease(pool, conversation="chat")
    assert {lease(pool, conversation="chat") for _ in range(5)} == {home}
    assert lease(KeyPool(), conversation="chat") == home  # another process agrees
    pool.failed(SERVER, home, limited(retry_after_ms=5000), now_ms=0)
    away = {lease(pool, 1, "chat") for _ in range(5)}
    assert len(away) == 1
    assert home not in away
    assert lease(pool, 5000, "chat") == home


def test_conversations_spread_over_the_keys() -> None:
    pool = KeyPool()
    used = Counter(lease(pool, conversation=f"chat {n}").name for n in range(300))
    assert min(used[name] for name in "ABC") > 60


def test_what_happened_is_counted_until_it_is_taken() -> None:
    pool = KeyPool()
    for _ in range(2):
        lease(pool)
    pool.succeeded(SERVER, KEYS[0])
    pool.failed(SERVER, KEYS[1], limited(), 0)
    pool.failed(SERVER, KEYS[1], REFUSED, 0)
    expected = {
        KeyId(SERVER, "A"): Counts(leases=1, successes=1),
        KeyId(SERVER, "B"): Counts(leases=1, failures=2, rate_limited=1, unauthorized=1),
    }
    assert pool.counts() == expected
    assert pool.take_counts() == expected
    assert pool.counts() == {}
    pool.add_counts(expected)
    assert pool.counts() == expected


def test_a_key_does_not_show_itself() -> None:
    assert "secret" not in f"{KEYS} {KEYS[0]}"


EVENTS = st.tuples(
    st.sampled_from(["lease", "succeeded", "limited", "refused"]),
    st.integers(0, 2),
    st.integers(0, 30_000),
    st.sampled_from([None, "chat 1", "chat 2"]),
)


@given(st.lists(EVENTS, max_size=60))
def test_no_key_is_taken_while_a_better_one_is_there(events: list[Any]) -> None:
    pool = KeyPool()
    resting = dict.fromkeys(KEYS, 0.0)
    refused: set[Key] = set()
    now_ms = 0.0
    for what, position, ms, conversation in events:
        now_ms += ms
        key = KEYS[position]
        if what == "limited":
            pool.failed(SERVER, key, limited(retry_after_ms=ms), now_ms)
            resting[key] = now_ms + max(ms, MIN_COOLDOWN_MS)
        elif what == "refused":
            pool.failed(SERVER, key, REFUSED, now_ms)
            refused.add(key)
        elif what == "succeeded":
            pool.succeeded(SERVER, key)
            refused.discard(key)
        else:
            taken = lease(pool, now_ms, conversation)
            free = [k for k in KEYS if k not in refused and resting[k] <= now_ms]
            accepted = [k for k in KEYS if k not in refused]
            if free:
                assert taken in free
            elif accepted:
                assert resting[taken] == min(resting[k] for k in accepted)
            assert (pool.free_in_ms(SERVER, KEYS, now_ms) == 0) == bool(free)
