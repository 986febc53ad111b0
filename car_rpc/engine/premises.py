"""What a decision rested on, kept so that it can be made again; see :mod:`car_rpc.engine.redriven`.

The models and the configuration are the same for many decisions: they are an event of their own,
and a decision names it by its hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeAlias

import msgspec

from car_rpc.engine.retry import RetryPolicy
from car_rpc.registry.catalog import shown
from car_rpc.router.ask import Ask
from car_rpc.router.pool import Key, Pool, Stay
from car_rpc.router.router import chosen_by_client, route
from car_rpc.router.scores import Candidate, Known
from car_rpc.router.splitmix import fnv1a64
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.outcomes import ModelProfile
from car_rpc.wire.routing import RouteDecision, RoutingConfig

#: Decisions after which what they rest on is written anew: what is older may be deleted by then.
REWRITTEN_AFTER = 1000

#: Different ones that are remembered as written.
MAX_REMEMBERED = 64


class Way(NamedTuple):
    """A request's way through a pool."""

    pool: Pool
    key: Key


class Premises(NamedTuple):
    """What a decision rests on, beside the request and its trace.

    Attributes:
        candidates: The models that were considered, in their order.
        config: How to choose.
        named: Why there is nothing to choose, where the client named a model or a pool.
        way: The pool.
    """

    candidates: list[Candidate]
    config: RoutingConfig
    named: str | None = None
    way: Way | None = None

    def decided(
        self, ask: Ask, trace_id: str, known: Known, shown: int | None
    ) -> tuple[list[ModelSchema], RouteDecision]:
        """The models that may answer, best first, and why.

        Raises:
            CarError: ``model_not_found``: none can.
        """
        if self.named is None:
            seed = fnv1a64(trace_id.encode())
            decision = route(self.candidates, ask, self.config, seed, known=known, shown=shown)
        elif self.way is None:
            (chosen,) = self.candidates
            decision = chosen_by_client(ask, self.config, chosen, self.named)
        else:
            able = {each.model.id: each for each in self.candidates}
            shut_off = {each for each, candidate in able.items() if candidate.breaker_open}
            order = self.way.pool.order(self.way.key, shut_off.__contains__)
            chosen, *failover = (able[each] for each in order if each in able)
            decision = chosen_by_client(ask, self.config, chosen, self.named, failover)
        models = {each.model.id: each.model for each in self.candidates}
        return [models[each] for each in (decision.model_id, *decision.fallbacks)], decision


class Snapshot(msgspec.Struct, frozen=True, kw_only=True):
    """What many decisions share, as the event ``routing_inputs`` holds it.

    Attributes:
        hash: Names it.
        config: How to choose.
        retry: What is tried again.
        models: The models in their order.
        unavailable: Ids of those that could not serve a request.
        unfit: Ids of those that do not fit in memory.
    """

    hash: str
    config: RoutingConfig
    retry: RetryPolicy
    models: list[ModelSchema]
    unavailable: list[str]
    unfit: list[str]


class PoolState(msgspec.Struct, frozen=True, kw_only=True):
    """A pool as a request found it.

    Attributes:
        name: Its name.
        key: What has its home there.
        lasts: Whether requests of the same key follow.
        stay: Where the key is, and how often it moved.
        turn: Keys that came before.
        quarantined: Members that are shut out.
    """

    name: str
    key: str
    lasts: bool
    stay: tuple[str, int] | None
    turn: int
    quarantined: list[str]


class Own(msgspec.Struct, frozen=True, kw_only=True):
    """What belongs to one decision, as its event ``route`` holds it.

    Attributes:
        inputs: The hash of what it shares with others.
        shut_off: Ids of the models that their circuit breaker kept requests from.
        refused: Why available models could not take what the request holds, by id.
        profiles: What was known of those that could; of their tasks only the request's.
        named: Why there was nothing to choose.
        pool: The pool that was named.
    """

    inputs: str
    shut_off: list[str] = []
    refused: dict[str, str] = {}
    profiles: list[ModelProfile] = []
    named: str | None = None
    pool: PoolState | None = None


Write: TypeAlias = Callable[[dict[str, Any]], None]
_Key: TypeAlias = tuple[object, ...]


class PremisesLog:
    """Keeps what decisions rest on; what they share only when it is new.

    Args:
        retry: What is tried again.
    """

    def __init__(self, retry: RetryPolicy) -> None:
        self._retry = retry
        self._count = 0
        self._config: RoutingConfig | None = None
        #: What was written. The candidates are kept so that no other model takes the id of one.
        self._written: dict[_Key, tuple[str, list[Candidate]]] = {}

    def own(self, premises: Premises, task: str, write: Write) -> dict[str, Any]:
        """What belongs to a decision, as JSON.

        Args:
            premises: What it rests on.
            task: The request's kind of work.
            write: Writes what it shares with others to the log, where it is not there yet.
        """
        usable = [c for c in premises.candidates if c.available and c.refusal is None]
        own = Own(
            inputs=self._shared(premises, write),
            shut_off=[c.model.id for c in premises.candidates if c.breaker_open],
            refused={
                c.model.id: c.refusal
                for c in premises.candidates
                if c.available and c.refusal is not None
            },
            profiles=[_of_task(c.profile, task) for c in usable if c.profile is not None],
            named=premises.named,
            pool=None if premises.way is None else _pool_state(premises.way),
        )
        return {
            name: value
            for name, value in msgspec.to_builtins(own).items()
            if value not in ([], {}, None)
        }

    def _shared(self, premises: Premises, write: Write) -> str:
        candidates, config = premises.candidates, premises.config
        self._count += 1
        is_old = self._count > REWRITTEN_AFTER or len(self._written) > MAX_REMEMBERED
        if is_old or config != self._config:
            self._count, self._config = 0, config
            self._written.clear()
        key = tuple((id(c.model), c.available, c.fits) for c in candidates)
        if key in self._written:
            return self._written[key][0]
        snapshot = Snapshot(
            hash="",
            config=config,
            retry=self._retry,
            models=[shown(c.model) for c in candidates],
            unavailable=[c.model.id for c in candidates if not c.available],
            unfit=[c.model.id for c in candidates if not c.fits],
        )
        digest = hashlib.sha256(msgspec.json.encode(snapshot)).hexdigest()[:32]
        if digest not in (known for known, _ in self._written.values()):
            write(msgspec.to_builtins(msgspec.structs.replace(snapshot, hash=digest)))
        self._written[key] = digest, candidates
        return digest


def restored(own: Own, shared: Snapshot) -> Premises:
    """What a decision rested on, from what was kept of it."""
    unavailable, unfit, shut_off = {*shared.unavailable}, {*shared.unfit}, {*own.shut_off}
    profiles: Mapping[str, ModelProfile] = {each.model_id: each for each in own.profiles}
    candidates = [
        Candidate(
            model,
            model.id not in unavailable,
            model.id not in unfit,
            model.id in shut_off,
            profiles.get(model.id),
            own.refused.get(model.id),
        )
        for model in shared.models
    ]
    way = None if own.pool is None else _restored_way(own.pool, shared.config)
    return Premises(candidates, shared.config, own.named, way)


def _of_task(profile: ModelProfile, task: str) -> ModelProfile:
    stats = profile.task_stats.get(task)
    task_stats = {} if stats is None else {task: stats}
    return msgspec.structs.replace(profile, task_stats=task_stats)


def _pool_state(way: Way) -> PoolState:
    stay, turn, quarantined = way.pool.state(way.key)
    return PoolState(
        name=way.pool.name,
        key=way.key.text,
        lasts=way.key.lasts,
        stay=None if stay is None else (stay.model_id, stay.moves),
        turn=turn,
        quarantined=sorted(quarantined),
    )


def _restored_way(state: PoolState, config: RoutingConfig) -> Way:
    pool, key = Pool(state.name, config.pools[state.name]), Key(state.key, state.lasts)
    stay = None if state.stay is None else Stay(*state.stay)
    pool.restore(key, stay, state.turn, state.quarantined)
    return Way(pool, key)
