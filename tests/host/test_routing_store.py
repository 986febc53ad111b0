"""The router's configuration: kept, live in all processes, and refused where it makes no sense."""

import sqlite3
from pathlib import Path

import pytest

from car_rpc.errors import CarError
from car_rpc.host.routing_store import RoutingStore, check_config
from car_rpc.wire.routing import PoolMember, PoolSpec, RoutingConfig

DEFAULT = RoutingConfig(mode="fast")


def test_what_one_process_stores_holds_in_all_and_after_a_restart(tmp_path: Path) -> None:
    one, other = (RoutingStore(tmp_path / "car.db", DEFAULT) for _ in range(2))
    assert one.current() == other.current() == DEFAULT
    members = [PoolMember(model_id="a/b:c", weight=2.0)]
    for config in (
        RoutingConfig(mode="best"),
        RoutingConfig(pools={"p": PoolSpec(members=members)}),
    ):
        one.put(config)
        assert one.current() == other.current() == config
    one.close()
    other.close()
    again = RoutingStore(tmp_path / "car.db", DEFAULT)
    assert again.current().pools["p"].members == members
    again.close()


def test_a_row_of_another_version_is_left_alone(tmp_path: Path) -> None:
    store = RoutingStore(tmp_path / "car.db", DEFAULT)
    database = sqlite3.connect(tmp_path / "car.db")
    database.execute('INSERT INTO routing VALUES (0, \'{"mode":"of tomorrow"}\')')
    database.commit()
    assert store.current() == DEFAULT
    assert database.execute("SELECT config FROM routing").fetchall() != []
    database.close()
    store.close()


@pytest.mark.parametrize(
    ("config", "path"),
    [
        (RoutingConfig(latency_weight=0.5), "$.config.quality_weight"),
        (RoutingConfig(quality_weight=0.5, cost_weight=0.5), "$.config.latency_weight"),
        (
            RoutingConfig(quality_weight=0.5, latency_weight=0.5, cost_weight=0.1),
            "$.config.quality_weight",
        ),
        (
            RoutingConfig(pools={"p": PoolSpec(members=[PoolMember(model_id="a/b:c")] * 2)}),
            "$.config.pools.p.members[1].model_id",
        ),
    ],
)
def test_a_configuration_that_makes_no_sense_is_refused_by_its_path(
    config: RoutingConfig, path: str
) -> None:
    with pytest.raises(CarError) as caught:
        check_config(config, "$.config")
    assert (caught.value.kind, caught.value.extra["path"]) == ("invalid_params", path)


def test_weights_may_be_rounded() -> None:
    check_config(RoutingConfig(quality_weight=0.1, latency_weight=0.2, cost_weight=0.7), "$")
