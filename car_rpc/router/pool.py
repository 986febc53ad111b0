"""Pools: models that stand for one another, and which of them a conversation stays with. Pure.

``spec/ROUTING.md``, section 9, has the rules.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import NamedTuple

from car_rpc.errors import KINDS, CarError, invalid_params
from car_rpc.router.splitmix import fnv1a64
from car_rpc.wire.routing import PoolMember, PoolSpec

#: A pool is asked for as a model of this name; no id of a model looks like it.
POOL_PREFIX = "pool/"

#: Conversations whose last member a pool remembers.
MAX_CONVERSATIONS = 4096

#: What shuts a member out until the pool is configured anew.
_QUARANTINE = frozenset({"unauthorized", "model_not_found"})


class Stay(NamedTuple):
    """Where a conversation is, and how often it moved."""

    model_id: str
    moves: int


def check_pools(pools: dict[str, PoolSpec], path: str) -> None:
    """Check what the types of pools leave open.

    Args:
        pools: The pools, by name.
        path: Where they stand, for the error.

    Raises:
        CarError: ``invalid_params`` for a model that is there twice, or a pool without a home.
    """
    for name, spec in pools.items():
        seen: set[str] = set()
        for index, member in enumerate(spec.members):
            if member.model_id in seen:
                raise invalid_params(
                    f"{member.model_id} is in the pool twice",
                    f"{path}.{name}.members[{index}].model_id",
                )
            seen.add(member.model_id)
        if all(member.role == "failover_only" for member in spec.members):
            raise invalid_params(
                "one member at least must not be `failover_only`", f"{path}.{name}.members"
            )


def rendezvous(key: str, member: PoolMember) -> float:
    """The score of a member for a key: the highest one is the home.

    Weighted rendezvous hashing: each member wins a share of the keys as large as its weight,
    and a change of the members moves only keys that come from or go to the changed one.
    """
    hashed = fnv1a64(f"{key}\0{member.model_id}".encode(errors="surrogatepass"))
    distance = -math.log((hashed + 1) / (2**64 + 1))
    return member.weight / distance if distance else math.inf


def switches(spec: PoolSpec, failure: CarError, *, breaker_open: bool) -> bool:
    """Whether a failure moves a conversation to another member.

    Args:
        spec: The pool.
        failure: How the member failed.
        breaker_open: Whether its circuit breaker is open now.
    """
    rules = spec.switch
    if failure.kind == "rate_limited":
        wait_ms = failure.extra.get("retry_after_ms")
        if rules.on_quota and (wait_ms is None or wait_ms >= rules.quota_retry_after_threshold_ms):
            return True
    if failure.kind in _QUARANTINE:
        return rules.on_permanent
    if KINDS[failure.kind].counts_toward_breaker:
        return rules.on_circuit_open and breaker_open
    return False


class Key(NamedTuple):
    """What has a home in a pool.

    Attributes:
        text: Names it.
        lasts: Whether requests of the same key follow, which stay where it is.
    """

    text: str
    lasts: bool


class Pool:
    """A pool at work: which conversations are with which member.

    Args:
        name: Its name.
        spec: Its members and rules.
    """

    def __init__(self, name: str, spec: PoolSpec) -> None:
        self.name = name
        self.spec = spec
        self._quarantined: set[str] = set()
        self._stays: OrderedDict[str, Stay] = OrderedDict()
        self._turn = 0

    def key(self, conversation_id: str | None, trace_id: str) -> Key:
        """What a request is sticky by."""
        if conversation_id is None or self.spec.sticky_scope == "request":
            return Key(trace_id, lasts=False)
        return Key(conversation_id, lasts=True)

    def state(self, key: Key) -> tuple[Stay | None, int, frozenset[str]]:
        """Where a key is, how many came before, and who is in quarantine; for :meth:`restore`."""
        return self._stays.get(key.text), self._turn, frozenset(self._quarantined)

    def restore(self, key: Key, stay: Stay | None, turn: int, quarantined: Iterable[str]) -> None:
        """Be as a pool was that a key found so."""
        if stay is not None:
            self._stays[key.text] = stay
        self._turn = turn
        self._quarantined = {*quarantined}

    def order(self, key: Key, shut_off: Callable[[str], bool]) -> list[str]:
        """Ids of the members in the order in which they are asked; at least one. Changes nothing.

        Args:
            key: What has its home here.
            shut_off: Whether a model is known to be of no use now.

        Raises:
            CarError: ``all_models_unavailable`` when every member is in quarantine.
        """
        ids = [each for each in self._from_home(key) if each not in self._quarantined]
        if not ids:
            raise CarError("all_models_unavailable", pool=self.name)
        return sorted(ids, key=shut_off)

    def begin(self, key: Key, model_id: str) -> None:
        """A request begins with this member."""
        if key.text not in self._stays:
            self._turn += 1
            if self.spec.home != "deterministic":
                self._keep(key, Stay(model_id, 0))

    def moves(self, key: Key, model_id: str, failure: CarError, *, breaker_open: bool) -> bool:
        """Whether to go on with the next member after one failed."""
        if failure.kind in _QUARANTINE:
            self._quarantined.add(model_id)
        stay = self._stays.get(key.text, Stay(model_id, 0))
        most = self.spec.switch.max_switches_per_session
        if isinstance(most, int) and stay.moves >= most:
            return False
        if not switches(self.spec, failure, breaker_open=breaker_open):
            return False
        self._keep(key, stay._replace(moves=stay.moves + 1))
        return True

    def answered(self, key: Key, model_id: str) -> None:
        """A member answered; the conversation stays with it."""
        moves = self._stays[key.text].moves if key.text in self._stays else 0
        self._keep(key, Stay(model_id, moves))

    def _keep(self, key: Key, stay: Stay) -> None:
        if not key.lasts:
            return
        self._stays[key.text] = stay
        self._stays.move_to_end(key.text)
        if len(self._stays) > MAX_CONVERSATIONS:
            self._stays.popitem(last=False)

    def _from_home(self, key: Key) -> list[str]:
        members = [member for member in self.spec.members if member.role == "member"]
        spares = [member.model_id for member in self.spec.members if member.role != "member"]
        if self.spec.home == "deterministic":
            members.sort(key=lambda member: -rendezvous(key.text, member))
        ids = [member.model_id for member in members]
        stay = self._stays.get(key.text)
        if stay is not None:
            everyone = [*ids, *spares]
            return [stay.model_id, *(each for each in everyone if each != stay.model_id)]
        if self.spec.home == "round_robin":
            first = self._turn % len(ids)
            ids = ids[first:] + ids[:first]
        return [*ids, *spares]
