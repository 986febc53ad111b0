"""Circuit breakers: a model that keeps failing is left alone for a while. Pure; time is passed in.

Closed while a model works; open after consecutive failures; half open after the cool-down, when
one request may probe it. A probe that nobody finished frees its place without a verdict.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from msgspec import Struct

from car_rpc.engine.admission import QUEUE_FULL
from car_rpc.errors import KINDS, CarError
from car_rpc.wire.base import NonNegativeFloat, Positive

BreakerState: TypeAlias = Literal["closed", "open", "half_open"]


class BreakerPolicy(Struct, frozen=True, kw_only=True):
    """When a breaker opens.

    Attributes:
        failure_threshold: Consecutive failures that open it.
        cooldown_ms: How long it stays open before a probe is let through, in milliseconds.
        weight_4xx: What a client error (HTTP 4xx but 429) counts: 0 by default, because the
            model is not at fault; 1 counts it like any failure, 2 twice.
    """

    failure_threshold: Positive = 5
    cooldown_ms: NonNegativeFloat = 30_000
    weight_4xx: Literal[0, 1, 2] = 0


class Breaker:
    """The breaker of one model."""

    def __init__(self, policy: BreakerPolicy) -> None:
        self.state: BreakerState = "closed"
        self._policy = policy
        self._failures = 0
        self._opened_ms = 0.0
        self._probing = False

    def available(self, now_ms: float) -> bool:
        """Whether :meth:`admit` would let a request through. Changes nothing."""
        if self.state == "open":
            return now_ms - self._opened_ms >= self._policy.cooldown_ms
        return self.state == "closed" or not self._probing

    def wait_ms(self, now_ms: float) -> float:
        """How long no request is let through."""
        if self.available(now_ms):
            return 0.0
        return max(0.0, self._opened_ms + self._policy.cooldown_ms - now_ms)

    def admit(self, now_ms: float) -> bool:
        """Whether a request may go to the model now; in half-open state it is the probe."""
        if not self.available(now_ms):
            return False
        if self.state != "closed":
            self.state = "half_open"
            self._probing = True
        return True

    def succeeded(self) -> None:
        """The request that was admitted worked."""
        self.state = "closed"
        self._failures = 0
        self._probing = False

    def failed(self, failure: CarError, now_ms: float) -> None:
        """The request that was admitted failed.

        What says nothing about the model (a refusal, a cancel, a prompt that is too long) leaves
        the breaker as it is and only ends a probe.
        """
        weight = _weight(failure, self._policy.weight_4xx)
        if not weight:
            self.abandoned()
            return
        self._failures += weight
        self._probing = False
        if self.state == "half_open" or self._failures >= self._policy.failure_threshold:
            self.state = "open"
            self._opened_ms = now_ms

    def abandoned(self) -> None:
        """The request that was admitted ended without a verdict, such as by a cancel."""
        self._probing = False


class Breakers:
    """One breaker for each model, made when it is first needed.

    Args:
        policy: When they open.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self._policy = policy
        self._breakers: dict[str, Breaker] = {}

    def of(self, model_id: str) -> Breaker:
        """The breaker of a model."""
        return self._breakers.setdefault(model_id, Breaker(self._policy))


def _weight(failure: CarError, weight_4xx: int) -> int:
    if "another_key" in failure.extra:  # that key failed, and not the model
        return 0
    if failure.extra.get("cause") == QUEUE_FULL:  # the model was not even asked
        return 0
    if KINDS[failure.kind].counts_toward_breaker:
        return 1
    status = failure.extra.get("status")
    if isinstance(status, int) and 400 <= status < 500:  # noqa: PLR2004 - HTTP's client errors
        return weight_4xx
    return 0
