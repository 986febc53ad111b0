"""The specification as documents, built from the wire types; pure, and never needed to serve."""

from __future__ import annotations

from car_rpc.spec.documents import documents, literals

__all__ = ["documents", "literals"]
