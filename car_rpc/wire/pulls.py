"""``models.pull`` and ``models.remove``: weights that come to this machine and go."""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct
from car_rpc.wire.models import ModelParams, ModelSchema


class ModelsPullParams(ModelParams, frozen=True, kw_only=True):
    """Parameters of ``models.pull``.

    Attributes:
        from_path: Import the weights from this file or folder of this machine instead of
            downloading them. It is copied, unless it is clearly another model's (``conflict``). Of
            a model in several files it is the first, and the others lie beside it.
        progress_token: Asks for ``$/progress`` with this token.
    """

    from_path: str | UnsetType = UNSET
    progress_token: int | str | UnsetType = UNSET


class ModelsPullResult(WireStruct, frozen=True, kw_only=True):
    """The weights are here.

    Attributes:
        model: The model, as it stands in the registry now.
        size_bytes: Size of what the model needs, where that was looked at.
        downloaded_bytes: How much of that came now; 0 when all of it was here.
    """

    model: ModelSchema
    size_bytes: NonNegative
    downloaded_bytes: NonNegative


class ModelsRemoveResult(WireStruct, frozen=True, kw_only=True):
    """What was deleted.

    Attributes:
        model_id: The model. It stays in the registry and can be pulled again.
        removed: The files and folders that were deleted; none when its weights were not here.
        freed_bytes: Room on the disk that they took.
        also_used_by: Ids of other models that used these files and have lost them, too.
    """

    model_id: str
    removed: list[str]
    freed_bytes: NonNegative
    also_used_by: list[str]
