"""Circuit breakers: a model that keeps failing is left alone for a while. Pure; time is passed in.

Closed while a model works; open after consecutive failures; half open after the cool-down, when
one request may probe it. A probe that nobody finished frees its place without a verdict, and what
was asked before the breaker opened has no say in it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from car_rpc.engine.admission import QUEUE_FULL
from car_rpc.errors import KINDS, CarError
from car_rpc.wire.base import NonNegativeFloat, Positive
from car_rpc.wire.health import BreakerState


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


class Permit:
    """Leave to ask a model once, whose outcome is reported once by one of the methods.

    An outcome counts only as long as the breaker is in the state that gave the permit: what was
    asked before it opened says nothing of the probe that comes later.
    """

    def __init__(self, breaker: Breaker, period: int) -> None:
        self._breaker = breaker
        self._period = period

    def succeeded(self) -> None:
        """It worked."""
        if self._is_valid():
            self._breaker.close()

    def failed(self, failure: CarError, now_ms: float) -> None:
        """It failed.

        What says nothing about the model (a refusal, a cancel, a prompt that is too long) leaves
        the breaker as it is and only frees the place of a probe.
        """
        if self._is_valid():
            self._breaker.count(failure, now_ms)

    def _is_valid(self) -> bool:
        return self._period == self._breaker.period


class Breaker:
    """The breaker of one model.

    Attributes:
        state: Closed, open or half open.
        period: Counts the states and the probes; only permits of the one at hand are valid.
    """

    def __init__(self, policy: BreakerPolicy) -> None:
        self.state: BreakerState = "closed"
        self.period = 0
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

    def admit(self, now_ms: float) -> Permit | None:
        """Leave to ask the model now, if there is any; in half-open state that is the probe."""
        if not self.available(now_ms):
            return None
        if self.state != "closed":
            self._enter("half_open")
            self._probing = True
        return Permit(self, self.period)

    def bypass(self) -> Permit:
        """Leave for who asks this very model whatever is known of it; the outcome never counts."""
        return Permit(self, -1)

    def close(self) -> None:
        """The model works."""
        self._failures = 0
        if self.state != "closed":
            self._enter("closed")

    def count(self, failure: CarError, now_ms: float) -> None:
        """The request failed, and perhaps the model."""
        self._probing = False
        weight = _weight(failure, self._policy.weight_4xx)
        self._failures += weight
        enough = self.state == "half_open" or self._failures >= self._policy.failure_threshold
        if weight and enough:
            self._enter("open")
            self._opened_ms = now_ms

    def _enter(self, state: BreakerState) -> None:
        self.state = state
        self.period += 1
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
        breaker = self._breakers.get(model_id)
        if breaker is None:
            breaker = self._breakers[model_id] = Breaker(self._policy)
        return breaker

    def shut_off(self, now_ms: float) -> set[str]:
        """Ids of the models that no request may go to now."""
        return {
            model_id
            for model_id, breaker in self._breakers.items()
            if breaker.state != "closed" and not breaker.available(now_ms)
        }

    def unavailable(self, model_ids: Iterable[str], now_ms: float) -> CarError:
        """What a request fails with when none of the models may be asked."""
        wait_ms = min(self.of(model_id).wait_ms(now_ms) for model_id in model_ids)
        return CarError("all_models_unavailable", retry_after_ms=round(wait_ms))


def _weight(failure: CarError, weight_4xx: int) -> int:
    if "another_key" in failure.extra:  # that key failed, and not the model
        return 0
    if failure.extra.get("cause") == QUEUE_FULL:  # the model was not even asked
        return 0
    if KINDS[failure.kind].counts_toward_breaker and failure.retryable:
        return 1
    status = failure.extra.get("status")
    if isinstance(status, int) and 400 <= status < 500:  # noqa: PLR2004 - HTTP's client errors
        return weight_4xx
    return 0
