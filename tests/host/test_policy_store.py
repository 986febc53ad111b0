from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.database import Database
from car_rpc.errors import CarError
from car_rpc.host.policy_store import PolicyStore
from car_rpc.testing import scripted_model
from car_rpc.wire.policy import MAX_RULES, PolicyRule

MODEL = scripted_model("test/one:a", [])


def rules(*ids: str, action: str = "deny", **fields: Any) -> list[PolicyRule]:
    return msgspec.convert(
        [{"id": each, "action": action, **fields} for each in ids], list[PolicyRule]
    )


@pytest.fixture
def store(tmp_path: Path) -> Any:
    store = PolicyStore(tmp_path / "car.db", rules("configured"))
    yield store
    store.close()


def test_what_is_set_comes_behind_the_configuration_in_its_order(store: PolicyStore) -> None:
    store.put(rules("b", "a"))
    store.put(rules("c", "b", action="allow"))
    listed = [(rule.id, rule.action, rule.origin) for rule in store.all()]
    assert listed == [
        ("configured", "deny", "configuration"),
        ("b", "allow", "set"),
        ("a", "deny", "set"),
        ("c", "allow", "set"),
    ]
    store.remove("a")
    assert [rule.id for rule in store.all()] == ["configured", "b", "c"]


def test_what_one_process_sets_holds_in_all_and_after_a_restart(tmp_path: Path) -> None:
    one, other = (PolicyStore(tmp_path / "car.db", []) for _ in range(2))
    assert not other.current().request("generate", MODEL).is_denied
    one.put(rules("a"))
    assert other.current().request("generate", MODEL).is_denied
    assert other.current() is other.current(), "rules are made ready once"
    one.close()
    other.close()
    again = PolicyStore(tmp_path / "car.db", [])
    assert again.current().request("generate", MODEL).is_denied
    again.close()


def test_rules_of_the_configuration_are_changed_there_alone(store: PolicyStore) -> None:
    for change in (lambda: store.put(rules("configured")), lambda: store.remove("configured")):
        with pytest.raises(CarError, match="one of the configuration") as caught:
            change()
        assert caught.value.kind == "conflict"


def test_what_makes_no_sense_is_refused_by_its_place_and_changes_nothing(
    store: PolicyStore,
) -> None:
    bad = [*rules("fine"), *rules("bad", action="redact", patterns=["x+"])]
    with pytest.raises(CarError, match="bound its repeats") as caught:
        store.put(bad)
    assert caught.value.data["path"] == "$.rules[1]"
    with pytest.raises(CarError, match="stands twice"):
        store.put(rules("a", "a"))
    with pytest.raises(CarError, match="at most 256 are kept"):
        store.put(rules(*map(str, range(MAX_RULES + 1))))
    with pytest.raises(CarError, match="'gone'") as caught:
        store.remove("gone")
    assert caught.value.kind == "not_found"
    assert [rule.id for rule in store.all()] == ["configured"]


def test_rules_that_cannot_be_read_let_nothing_pass(store: PolicyStore, tmp_path: Path) -> None:
    newer = Database(tmp_path / "car.db", "")
    with newer.transaction() as writer:
        writer.execute("INSERT INTO policy VALUES (0, ?)", ('[{"id": "x", "action": "teleport"}]',))
    newer.close()
    with pytest.raises(CarError, match="update car-rpc"):
        store.current()
