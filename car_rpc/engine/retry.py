"""How long to wait before the next attempt on the same model. Pure.

The numbers are the executor contract's: exponential from a base, twice as long each time, capped;
a provider that says how long to wait is obeyed, also beyond the cap.
"""

from __future__ import annotations

from msgspec import Struct

from car_rpc.errors import CarError
from car_rpc.wire.base import NonNegative

#: How often one request is sent anew with another key of the same server.
MAX_KEY_CHANGES = 16

#: Doublings after which the delay no longer grows; it is far beyond any cap by then.
_MAX_DOUBLINGS = 16


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """Bounds of what is tried again on one model.

    Attributes:
        max_retries: Further attempts after a failed one, before anything was streamed.
        backoff_base_ms: First delay, in milliseconds; each further one is twice as long.
        overloaded_backoff_base_ms: First delay after ``overloaded``, in milliseconds.
        backoff_cap_ms: Longest delay that is not the provider's own wish, in milliseconds.
        max_stream_retries: Further attempts after a stream that broke.
        idle_stall_backoff_ms: Delay after a stream that fell silent, in milliseconds.
    """

    max_retries: NonNegative = 2
    backoff_base_ms: NonNegative = 500
    overloaded_backoff_base_ms: NonNegative = 2000
    backoff_cap_ms: NonNegative = 8000
    max_stream_retries: NonNegative = 2
    idle_stall_backoff_ms: NonNegative = 200

    def delay_ms(self, failure: CarError, retries_before: int) -> int:
        """Milliseconds to wait after a failure.

        Args:
            failure: What happened; its ``retry_after_ms``, if it has one, is the least delay.
                With ``another_key`` there is nothing to wait for.
            retries_before: Retries on this model so far, from 0.
        """
        if "another_key" in failure.extra:
            return 0
        base = self.backoff_base_ms
        if failure.kind == "overloaded":
            base = self.overloaded_backoff_base_ms
        elif failure.extra.get("cause") == "idle_stall":
            return self.idle_stall_backoff_ms
        delay: int = min(base * 2 ** min(retries_before, _MAX_DOUBLINGS), self.backoff_cap_ms)
        wished = int(failure.extra.get("retry_after_ms") or 0)
        return max(delay, wished)
