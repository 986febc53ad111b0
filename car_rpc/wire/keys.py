"""API keys: how those of the servers have fared. Never a key, nor a part of one."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct


class KeyStats(WireStruct, frozen=True, kw_only=True):
    """One key. The counts are of all processes on the state directory, also of earlier ones.

    Attributes:
        name: Where it stands: the name of an environment variable, with the position where that
            holds several keys (``MY_KEYS[1]``), or ``keyring:`` and service and user name.
        leases: Requests that were sent with it.
        successes: Requests among them that were answered.
        failures: Requests among them that failed, for whatever reason.
        rate_limited: Failures that said to slow down.
        unauthorized: Failures that refused the key.
        cooling_down_ms: How long this process prefers other keys yet, because of a rate limit.
        quarantined: Whether this process prefers all other keys, because this one was refused.
            That ends when the key is another one, or is accepted again.
    """

    name: str
    leases: NonNegative
    successes: NonNegative
    failures: NonNegative
    rate_limited: NonNegative
    unauthorized: NonNegative
    cooling_down_ms: NonNegative | UnsetType = UNSET
    quarantined: bool = False


class EndpointKeys(WireStruct, frozen=True, kw_only=True):
    """The keys that were used for a server.

    Attributes:
        endpoint: Address of the server.
        keys: The keys, by name.
    """

    endpoint: str
    keys: list[KeyStats]


class KeysStatsResult(WireStruct, frozen=True, kw_only=True):
    """All keys that were ever used.

    Attributes:
        endpoints: The servers, by address.
    """

    endpoints: list[EndpointKeys]
