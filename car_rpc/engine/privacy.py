"""How much of a request goes to the event log. Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from msgspec import UnsetType

from car_rpc.eventlog.shapes import KNOWN, Secrets
from car_rpc.wire.inference import PrivacyLevel

#: Members of an event that hold what the client or a model said.
_CONTENT = frozenset({"call", "params", "events", "result", "error"})


class Privacy(NamedTuple):
    """What the log keeps of a request.

    Attributes:
        level: How much.
        secrets: What is replaced at the level ``redacted``.
        salt: Goes into the hashes that stand for content at the level ``metadata``, so that
            nobody can try out what it was; at most 64 bytes. Without it there are only sizes.
    """

    level: PrivacyLevel = "redacted"
    secrets: Secrets = KNOWN
    salt: bytes | None = None

    def of(self, wanted: PrivacyLevel | UnsetType) -> Privacy:
        """That of a request: what it wants, or that of the process.

        A request may want less or more. The app that spawned the process is trusted.
        """
        return self if isinstance(wanted, UnsetType) else self._replace(level=wanted)

    def kept(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """The data of an event, with sizes and hashes for content where only those are kept."""
        if self.level != "metadata":
            return dict(data)
        return {n: self._measured(v) if n in _CONTENT else v for n, v in data.items()}

    def _measured(self, value: object) -> dict[str, object]:
        encoded = msgspec.json.encode(value)
        measured: dict[str, object] = {"bytes": len(encoded)}
        if self.salt is not None:
            # Keyed BLAKE2 (RFC 7693, section 2.9) is a message authentication code.
            measured["hash"] = hashlib.blake2b(encoded, key=self.salt, digest_size=16).hexdigest()
        return measured
