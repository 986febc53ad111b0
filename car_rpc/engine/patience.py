"""Whether a request is tried again on the same model, and how long it waits before. Pure."""

from __future__ import annotations

from typing import Literal, TypeAlias

from car_rpc.engine.interruption import passes
from car_rpc.engine.retry import MAX_KEY_CHANGES, RetryPolicy
from car_rpc.errors import CarError

#: How far a request may go when an attempt fails; see :class:`GenerateRequest`.
Level: TypeAlias = Literal["none", "retry", "fallback", "resume"]

#: Longest wait for the same model while another one could be asked, in milliseconds.
SOON_MS = 2000

#: Longest wait at all, in milliseconds; beyond it the client hears how long it would be.
PATIENCE_MS = 60_000

#: Crashes of a worker during one request after which the request is the suspect.
_SUSPECT_AFTER_CRASHES = 2


class Patience:
    """What one request puts up with.

    Attributes:
        level: How far it may go.
        policy: The bounds of what is tried again.
        others_wait: Whether whoever asks has other models to ask when this fails, so that none is
            worth a long wait.
    """

    def __init__(self, level: Level, policy: RetryPolicy, *, others_wait: bool = False) -> None:
        self.level = level
        self.policy = policy
        self.others_wait = others_wait
        self._crashes = 0

    @property
    def asks_other_models(self) -> bool:
        """Whether another model may be asked."""
        return self.level in ("fallback", "resume")

    def changes_key(self, failure: CarError, attempts: int) -> bool:
        """Whether the same server has another key that the request may be sent with at once.

        Args:
            failure: How the last attempt failed, before anything was streamed.
            attempts: How many there were.
        """
        return (
            "another_key" in failure.extra and self.level != "none" and attempts <= MAX_KEY_CHANGES
        )

    def delay_ms(self, failure: CarError, retries: int, *, is_last: bool) -> int:
        """How long to wait before the next attempt on the same model, in milliseconds.

        Args:
            failure: How the last one failed.
            retries: How often this model was tried again so far.
            is_last: Whether no other model is left.

        Raises:
            CarError: The failure, when there is to be no such attempt.
        """
        self.note_crash(failure)
        tried_enough = retries >= self.policy.max_retries
        if self.level == "none" or tried_enough or not passes(failure):
            raise failure
        delay_ms = self.policy.delay_ms(failure, retries)
        other_model = self.others_wait or (self.asks_other_models and not is_last)
        if delay_ms > (SOON_MS if other_model else PATIENCE_MS):
            raise failure
        return delay_ms

    def note_crash(self, failure: CarError) -> None:
        """Count a worker that died.

        Raises:
            CarError: The failure, marked as ``suspect``, when it happened too often for chance.
        """
        self._crashes += failure.kind == "worker_crashed"
        if failure.kind == "worker_crashed" and self._crashes >= _SUSPECT_AFTER_CRASHES:
            raise CarError(failure.kind, failure.detail, **{**failure.extra, "suspect": True})
