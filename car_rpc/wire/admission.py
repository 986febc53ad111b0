"""How much work local models do at once: the ``admission.*`` methods."""

from __future__ import annotations

import msgspec

from car_rpc.wire.base import NonNegative, Positive, WireStruct


class LoadedModel(WireStruct, frozen=True, kw_only=True):
    """A local model that is in memory.

    Attributes:
        model_id: The model.
        memory_bytes: Memory that its process takes now.
        requests: Requests that it works on.
        idle_ms: How long it has had none, in milliseconds.
    """

    model_id: str
    memory_bytes: NonNegative
    requests: NonNegative
    idle_ms: NonNegative


class AdmissionStatus(WireStruct, frozen=True, kw_only=True):
    """How things stand at this moment. Remote and delegated models need no permit.

    Attributes:
        permits_total: Local models that may work at the same time.
        permits_available: How many more could begin to.
        permits_in_use: Local models that do. The requests of one model share its permit.
        running: Requests that they work on.
        queued: Requests that wait for a permit.
        env_override: Number of permits that was set in the environment or the configuration
            file; null when it follows from the memory of the machine.
        memory_budget_bytes: Memory that loaded models may take together, where each counts as
            its weights and the cache of one conversation, or as what it takes where that is more;
            null when the memory of the machine is not known.
        loaded: The models in memory, by id.
    """

    permits_total: Positive
    permits_available: NonNegative
    permits_in_use: NonNegative
    running: NonNegative
    queued: NonNegative
    env_override: Positive | None
    memory_budget_bytes: Positive | None = None
    loaded: list[LoadedModel] = msgspec.field(default_factory=list[LoadedModel])
