"""``models.load``, ``models.unload`` and ``models.warm_up``: what is in memory, and when."""

from __future__ import annotations

from typing import Annotated

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, WireStruct
from car_rpc.wire.models import ModelParams


class ModelsLoadParams(ModelParams, frozen=True, kw_only=True):
    """Parameters of ``models.load``.

    Attributes:
        keep_alive_ms: How long it stays loaded without a request, in milliseconds; the
            configuration's ``keep_alive_ms`` by default.
        progress_token: Asks for ``$/progress`` with this token.
    """

    keep_alive_ms: NonNegative | UnsetType = UNSET
    progress_token: int | str | UnsetType = UNSET


class ModelsLoadResult(WireStruct, frozen=True, kw_only=True):
    """The model is ready.

    Attributes:
        model_id: The model.
        load_ms: How long that took, in milliseconds.
    """

    model_id: str
    load_ms: NonNegativeFloat


class ModelsUnloadResult(WireStruct, frozen=True, kw_only=True):
    """The model takes no memory.

    Attributes:
        model_id: The model.
        was_loaded: Whether it did.
        freed_bytes: How much; its process is gone.
    """

    model_id: str
    was_loaded: bool
    freed_bytes: NonNegative


class ModelsWarmUpParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``models.warm_up``.

    Attributes:
        models: Ids or names.
        keep_alive_ms: As for ``models.load``.
        progress_token: Asks for ``$/progress`` with this token.
    """

    models: Annotated[list[str], Meta(min_length=1, max_length=64)]
    keep_alive_ms: NonNegative | UnsetType = UNSET
    progress_token: int | str | UnsetType = UNSET


class WarmUpResult(WireStruct, frozen=True, kw_only=True):
    """What became of one model.

    Attributes:
        model: As it was asked for.
        loaded: Whether it is ready.
        load_ms: How long that took, in milliseconds, when it is.
        kind: Kind of the error, when it is not.
        message: What happened, when it is not.
    """

    model: str
    loaded: bool
    load_ms: NonNegativeFloat | UnsetType = UNSET
    kind: str | UnsetType = UNSET
    message: str | UnsetType = UNSET


class ModelsWarmUpResult(WireStruct, frozen=True, kw_only=True):
    """One result for each model that was named, in that order.

    Attributes:
        results: The results.
    """

    results: list[WarmUpResult]
