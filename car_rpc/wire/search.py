"""Choosing a model for a machine: ``models.search`` and ``models.upgrades``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct
from car_rpc.wire.models import Capability, ModelSchema, ModelSource, SourceType


class Accelerator(WireStruct, frozen=True, kw_only=True):
    """A graphics processor, as the operating system shows it.

    Attributes:
        kind: What programs it: ``metal`` shares the machine's memory, the others have their own.
        name: Its product name, where that is known.
        memory_total_bytes: Its memory.
        memory_available_bytes: What of it is free.
    """

    kind: Literal["metal", "cuda", "rocm"]
    name: str = ""
    memory_total_bytes: NonNegative | UnsetType = UNSET
    memory_available_bytes: NonNegative | UnsetType = UNSET


class Machine(WireStruct, frozen=True, kw_only=True):
    """What this process may use of the machine that it runs on; 0 is unknown.

    Attributes:
        memory_total_bytes: Memory of the machine, or of the container where that has less.
        memory_available_bytes: What of it could be used now without swapping.
        cores_physical: Processor cores.
        cores_logical: Threads that they run at once.
        cores_usable: How many of those this process may use, by its affinity and its quota.
        accelerators: Graphics processors.
    """

    memory_total_bytes: NonNegative = 0
    memory_available_bytes: NonNegative = 0
    cores_physical: NonNegative = 0
    cores_logical: NonNegative = 0
    cores_usable: NonNegative = 0
    accelerators: list[Accelerator] = []


class ModelTemplate(WireStruct, frozen=True, kw_only=True):
    """The start of a registration: add an ``id`` and what is empty, and register it.

    Attributes:
        name: Name of the template.
        title: What it is for.
        source: The source, whose ``model`` is still empty.
        capabilities: What models of this kind can do; correct it for the one that is meant.
    """

    name: str
    title: str
    source: ModelSource
    capabilities: list[Capability]


class ModelsSearchParams(WireStruct, frozen=True, kw_only=True):
    """What to look for; all that is given must match.

    Attributes:
        query: Words of which each must occur in the id, the name, the family or the tags.
        capability: Only models that have it.
        family: Only models of this family.
        source: Only models of this kind of source.
        max_size_bytes: Only models whose weights are known or estimated to be no larger.
        fits: Only models that fit this machine, or only those that do not.
        limit: Most models to return.
    """

    query: Annotated[str, Meta(max_length=256)] = ""
    capability: Capability | UnsetType = UNSET
    family: str | UnsetType = UNSET
    source: SourceType | UnsetType = UNSET
    max_size_bytes: NonNegative | UnsetType = UNSET
    fits: bool | UnsetType = UNSET
    limit: Annotated[int, Meta(ge=1, le=1000)] = 50


class ModelsSearchResult(WireStruct, frozen=True, kw_only=True):
    """What was found, best first.

    Attributes:
        models: The models: the best match first, then what can serve now, what is on this
            machine, what fits it, and of that the largest.
        templates: Starts of registrations that match.
        machine: What ``fits`` was judged by.
        recommended: Id of the model that suits this machine for chat, whether it is here or not.
    """

    models: list[ModelSchema]
    templates: list[ModelTemplate]
    machine: Machine
    recommended: str | UnsetType = UNSET


class ModelUpgrade(WireStruct, frozen=True, kw_only=True):
    """A newer version of a model that is on this machine.

    Attributes:
        model_id: The model that is here.
        upgrade: The newest version of the same family and size that fits and can do as much.
    """

    model_id: str
    upgrade: ModelSchema


class ModelsUpgradesResult(WireStruct, frozen=True, kw_only=True):
    """All upgrades, by the id of the model that is here.

    Attributes:
        upgrades: The upgrades.
    """

    upgrades: list[ModelUpgrade]
