"""How an engine guesses what an answer goes on with."""

from __future__ import annotations

from typing import TypeAlias

from car_rpc.wire.base import WireStruct


class LookupSpeculation(
    WireStruct,
    frozen=True,
    kw_only=True,
    tag_field="type",
    tag="lookup",
    forbid_unknown_fields=True,
):
    """From the text itself: what followed the last tokens where they stood before.

    It takes no second model, and pays where an answer says again what was said: edits, code,
    quotes, JSON.
    """


class DraftSpeculation(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="draft"):
    """From a small model with the same vocabulary, which is loaded beside.

    Attributes:
        path: Its GGUF file, relative to the models directory unless absolute.
    """

    path: str


Speculation: TypeAlias = LookupSpeculation | DraftSpeculation
