"""Which member of a pool a conversation is with, and what moves it."""

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.router.pool import MAX_CONVERSATIONS, Key, Pool, check_pools, rendezvous, switches
from car_rpc.wire.routing import PoolMember, PoolSpec, PoolSwitch

ROUTING = Path(__file__).parent.parent.parent / "spec" / "vectors" / "routing"
HOMES = json.loads((ROUTING / "homes.json").read_text(encoding="utf-8"))["cases"]

#: Prints the order of every key of the file, in a process of its own.
SCRIPT = """
import json, msgspec, sys
from car_rpc.router.pool import Key, Pool
from car_rpc.wire.routing import PoolSpec
for case in json.load(open(sys.argv[1], encoding="utf-8"))["cases"]:
    pool = Pool("p", msgspec.convert({"members": case["members"]}, PoolSpec))
    print(json.dumps(pool.order(Key(case["key"], True), lambda _: False)))
"""


def pool(*ids: str, **fields: Any) -> Pool:
    members = [PoolMember(model_id=each) for each in ids]
    return Pool("p", PoolSpec(**{"members": members, **fields}))


def key(text: str = "talk") -> Key:
    return Key(text, lasts=True)


def working(_: str) -> bool:
    return False


def order(pool: Pool, text: str = "talk") -> list[str]:
    return pool.order(key(text), working)


def begun(pool: Pool, text: str) -> str:
    """The home of a conversation that begins."""
    home = order(pool, text)[0]
    pool.begin(key(text), home)
    return home


@pytest.mark.parametrize("seed", ["0", "1"])
def test_homes_are_the_same_in_every_process_and_those_of_the_file(seed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(ROUTING / "homes.json")],
        capture_output=True,
        check=True,
        text=True,
        env={"PYTHONHASHSEED": seed, "PYTHONPATH": str(ROUTING.parents[2])},
    )
    assert [json.loads(line) for line in done.stdout.splitlines()] == [c["is"] for c in HOMES]


def test_homes_are_spread_by_weight() -> None:
    weights = {"a/one:x": 1.0, "a/two:x": 2.0, "a/three:x": 7.0}
    members = [PoolMember(model_id=each, weight=weight) for each, weight in weights.items()]
    some = Pool("p", PoolSpec(members=members))
    homes = Counter(order(some, f"conversation {n}")[0] for n in range(10_000))
    for model_id, weight in weights.items():
        assert homes[model_id] == pytest.approx(1000 * weight, rel=0.1)


def test_who_joins_takes_keys_from_all_and_moves_none_between_them() -> None:
    before, after = pool("a/one:x", "a/two:x"), pool("a/one:x", "a/two:x", "a/three:x")
    moved = Counter()
    for n in range(1000):
        old, new = order(before, str(n))[0], order(after, str(n))[0]
        if old != new:
            moved[old, new] += 1
    assert set(moved) == {("a/one:x", "a/three:x"), ("a/two:x", "a/three:x")}


def test_a_hash_at_the_very_top_is_a_score_like_any(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("car_rpc.router.pool.fnv1a64", lambda _: 2**64 - 1)
    assert rendezvous("key", PoolMember(model_id="a/b:c")) == float("inf")


def test_in_turn_and_the_first_that_works() -> None:
    turns = pool("a/1:x", "a/2:x", "a/3:x", home="round_robin")
    assert [begun(turns, text) for text in "abca"] == ["a/1:x", "a/2:x", "a/3:x", "a/1:x"]
    assert order(turns, "d") == order(turns, "d") == ["a/1:x", "a/2:x", "a/3:x"]
    assert order(turns, "b") == ["a/2:x", "a/1:x", "a/3:x"]
    first = pool("a/1:x", "a/2:x", home="first_healthy")
    assert first.order(key(), {"a/1:x"}.__contains__) == ["a/2:x", "a/1:x"]


def test_spares_are_nobodys_home_and_what_is_shut_off_comes_last() -> None:
    members = [
        PoolMember(model_id="a/spare:x", role="failover_only", weight=1000.0),
        PoolMember(model_id="a/one:x"),
        PoolMember(model_id="a/two:x"),
    ]
    some = Pool("p", PoolSpec(members=members))
    assert {order(some, str(n))[2] for n in range(50)} == {"a/spare:x"}
    shut_off = {"a/one:x", "a/two:x"}
    assert some.order(key(), shut_off.__contains__)[0] == "a/spare:x"


def rate_limited(**data: Any) -> CarError:
    return CarError("rate_limited", "slow down", **data)


@pytest.mark.parametrize(
    ("failure", "rules", "is_open", "moves"),
    [
        (rate_limited(), {}, False, True),
        (rate_limited(retry_after_ms=10), {}, False, True),
        (rate_limited(), {"on_quota": False}, False, False),
        (rate_limited(retry_after_ms=999), {"quota_retry_after_threshold_ms": 1000}, False, False),
        (rate_limited(retry_after_ms=1000), {"quota_retry_after_threshold_ms": 1000}, False, True),
        (rate_limited(), {"quota_retry_after_threshold_ms": 1000}, False, True),
        (CarError("provider_error"), {}, False, False),
        (CarError("provider_error"), {}, True, True),
        (CarError("timeout"), {"on_circuit_open": False}, True, False),
        (CarError("unauthorized"), {}, False, True),
        (CarError("model_not_found"), {"on_permanent": False}, False, False),
        (CarError("content_filtered"), {}, True, False),
        (CarError("context_overflow"), {}, True, False),
        (CarError("cancelled"), {}, True, False),
    ],
)
def test_a_failure_moves_a_conversation_only_when_another_member_may_do_better(
    failure: CarError, rules: dict[str, Any], is_open: bool, moves: bool
) -> None:
    spec = PoolSpec(members=[PoolMember(model_id="a/b:c")], switch=PoolSwitch(**rules))
    assert switches(spec, failure, breaker_open=is_open) is moves


def test_a_conversation_stays_where_it_was_answered() -> None:
    some = pool("a/one:x", "a/two:x")
    home, other = order(some)
    assert some.moves(key(), home, rate_limited(), breaker_open=False)
    some.answered(key(), other)
    assert order(some) == [other, home]
    assert order(some, "another") == order(pool("a/one:x", "a/two:x"), "another")


def test_a_conversation_moves_no_more_often_than_it_may() -> None:
    some = pool("a/one:x", "a/two:x", switch=PoolSwitch(max_switches_per_session=1))
    home, other = order(some)
    assert some.moves(key(), home, rate_limited(), breaker_open=False)
    some.answered(key(), other)
    assert not some.moves(key(), other, rate_limited(), breaker_open=False)


def test_a_member_that_refuses_the_credentials_is_in_quarantine_for_everybody() -> None:
    some = pool("a/one:x", "a/two:x")
    some.moves(key(), "a/one:x", CarError("unauthorized"), breaker_open=False)
    assert {tuple(order(some, str(n))) for n in range(20)} == {("a/two:x",)}
    some.moves(key(), "a/two:x", CarError("model_not_found"), breaker_open=False)
    with pytest.raises(CarError) as caught:
        order(some)
    assert (caught.value.kind, caught.value.extra["pool"]) == ("all_models_unavailable", "p")


def test_requests_without_a_conversation_leave_nothing_behind() -> None:
    some = pool("a/one:x", "a/two:x")
    assert some.key(None, "tr_1") == Key("tr_1", lasts=False)
    assert some.key("talk", "tr_1") == key()
    by_request = pool("a/one:x", sticky_scope="request")
    assert by_request.key("talk", "tr_1") == Key("tr_1", lasts=False)
    home, other = some.order(Key("tr_1", lasts=False), working)
    some.answered(Key("tr_1", lasts=False), other)
    assert some.order(Key("tr_1", lasts=False), working) == [home, other]


def test_only_so_many_conversations_are_remembered() -> None:
    some = pool("a/one:x", "a/two:x")
    home, other = order(some)
    some.answered(key(), other)
    for n in range(MAX_CONVERSATIONS):
        some.answered(key(f"conversation {n}"), "a/one:x")
    assert order(some) == [home, other]


@pytest.mark.parametrize(
    ("members", "path"),
    [
        ([("a/b:c", "member"), ("a/b:c", "member")], "$.pools.mine.members[1].model_id"),
        ([("a/b:c", "failover_only")], "$.pools.mine.members"),
    ],
)
def test_a_pool_that_makes_no_sense_is_refused_by_its_path(
    members: list[tuple[str, Any]], path: str
) -> None:
    spec = PoolSpec(members=[PoolMember(model_id=each, role=role) for each, role in members])
    with pytest.raises(CarError) as caught:
        check_pools({"mine": spec}, "$.pools")
    assert (caught.value.kind, caught.value.extra["path"]) == ("invalid_params", path)
