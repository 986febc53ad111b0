"""The catalog that ships with car-rpc: models with open weights, and templates for the others.

It is data, ``car_rpc/data/catalog.json``, whose head says where its facts come from. Reading it
takes about a millisecond, behind the handshake.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from car_rpc.wire.models import ModelSchema
from car_rpc.wire.search import ModelTemplate

CATALOG_FILE = Path(__file__).resolve().parent.parent / "data" / "catalog.json"


class CuratedCatalog(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file.

    Attributes:
        about: How its facts were established.
        models: The models.
        templates: Starts of registrations, by name.
    """

    about: list[str]
    models: list[ModelSchema]
    templates: list[ModelTemplate]


@cache
def curated() -> CuratedCatalog:
    """The catalog. It is part of the package, so a fault in it is one of the package."""
    catalog = msgspec.json.decode(CATALOG_FILE.read_bytes(), type=CuratedCatalog)
    models = [msgspec.structs.replace(model, trust_tier="curated") for model in catalog.models]
    return msgspec.structs.replace(catalog, models=models)
