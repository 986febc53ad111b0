"""The router's configuration as a row of the state directory's database, live in all processes."""

from __future__ import annotations

from pathlib import Path

import msgspec

from car_rpc.database import Database
from car_rpc.errors import invalid_params
from car_rpc.router.pool import check_pools
from car_rpc.wire.routing import RoutingConfig

_SCHEMA = """
CREATE TABLE IF NOT EXISTS routing (
    only_row INTEGER PRIMARY KEY CHECK (only_row = 0), config TEXT NOT NULL
) STRICT;
"""

#: How far the sum of the weights may be from 1: what rounding does to decimal fractions.
_ROUNDING = 1e-6


class RoutingStore:
    """The configuration of the router.

    Args:
        path: The database file.
        default: What holds until something else is stored.

    Raises:
        CarError: ``io_error`` when the database cannot be used; so do all methods.
    """

    def __init__(self, path: Path, default: RoutingConfig) -> None:
        self._database = Database(path, _SCHEMA)
        self._default = default
        self._read = ("", default)

    def current(self) -> RoutingConfig:
        """The configuration as any process stored it last.

        One that this version cannot read, such as a newer one's, is as if it were not there.
        """
        rows = self._database.read("SELECT config FROM routing")
        if not rows:
            return self._default
        text = str(rows[0][0])
        if text != self._read[0]:
            self._read = (text, self._decoded(text))
        return self._read[1]

    def put(self, config: RoutingConfig) -> None:
        """Store a configuration. May wait for other processes: not for the event loop."""
        text = msgspec.json.encode(config).decode()
        with self._database.transaction() as writer:
            writer.execute("INSERT OR REPLACE INTO routing VALUES (0, ?)", (text,))

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _decoded(self, text: str) -> RoutingConfig:
        try:
            return msgspec.json.decode(text, type=RoutingConfig)
        except msgspec.DecodeError:
            return self._default


def check_config(config: RoutingConfig, path: str) -> None:
    """Check what the type of the configuration leaves open.

    Args:
        config: The configuration.
        path: Where it stands, for the error.

    Raises:
        CarError: ``invalid_params`` that names the field.
    """
    weights = {
        name: getattr(config, name) for name in ("quality_weight", "latency_weight", "cost_weight")
    }
    given = [weight for weight in weights.values() if isinstance(weight, float)]
    if given and len(given) < len(weights):
        missing = next(name for name, weight in weights.items() if weight is msgspec.UNSET)
        raise invalid_params("the three weights are given together", f"{path}.{missing}")
    if given and abs(sum(given) - 1) > _ROUNDING:
        raise invalid_params(
            f"the sum of the three weights is {sum(given):g} and must be 1",
            f"{path}.quality_weight",
        )
    check_pools(config.pools, f"{path}.pools")
