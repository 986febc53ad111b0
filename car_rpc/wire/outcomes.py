"""What is known of a model from how its answers went."""

from __future__ import annotations

import msgspec
from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct


class TaskStats(WireStruct, frozen=True, kw_only=True):
    """How a model did at one task.

    Attributes:
        calls: Requests that ended, in success or failure.
        success_count: Those that succeeded.
        fail_count: Those that failed.
        total_latency_ms: Time that the successful ones took together, in milliseconds.
        ema_quality: Exponential moving average of their quality, from 0 to 1.
    """

    calls: NonNegative = 0
    success_count: NonNegative = 0
    fail_count: NonNegative = 0
    total_latency_ms: float = 0.0
    ema_quality: float = 0.5


class ModelProfile(WireStruct, frozen=True, kw_only=True):
    """What was observed of a model, or is assumed of it before it was used.

    Attributes:
        model_id: Id of the model.
        total_calls: Requests that ended, in success or failure; 0 for a mere prior.
        success_count: Those that succeeded.
        fail_count: Those that failed.
        total_latency_ms: Time that the successful ones took together, in milliseconds.
        total_input_tokens: Tokens of their prompts.
        total_output_tokens: Tokens of their answers.
        task_stats: The same by task: ``generate``, ``embed``, ``classify``, ``code``,
            ``reasoning``.
        ema_quality: Exponential moving average of their quality, from 0 to 1.
        quality_per_1k_tokens: ``ema_quality`` by a thousand tokens of an average answer; absent
            before any token was counted.
        updated_at: When it last changed, in RFC 3339; absent for a mere prior.
    """

    model_id: str
    total_calls: NonNegative = 0
    success_count: NonNegative = 0
    fail_count: NonNegative = 0
    total_latency_ms: float = 0.0
    total_input_tokens: NonNegative = 0
    total_output_tokens: NonNegative = 0
    task_stats: dict[str, TaskStats] = msgspec.field(default_factory=dict[str, TaskStats])
    ema_quality: float = 0.5
    quality_per_1k_tokens: float | UnsetType = UNSET
    updated_at: str | UnsetType = UNSET
