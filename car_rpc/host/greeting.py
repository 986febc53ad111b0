"""What ``initialize`` answers. Needs the standard library only, so it can be said at once."""

from __future__ import annotations

import importlib.util
from typing import Any

from car_rpc import __version__
from car_rpc.protocol.limits import MAX_BATCH, MAX_DEPTH, MAX_IN_FLIGHT, RUNNER_BUFFER_BYTES
from car_rpc.wire.announced import METHODS, PROTOCOL_VERSION, SPEC_HASH, SPEC_MAJOR, SPEC_MINOR


def initialize_result(
    session_id: str, max_message_bytes: int, backends: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    """An ``InitializeResult`` (:mod:`car_rpc.wire.lifecycle`) as plain values."""
    return {
        "protocol_version": PROTOCOL_VERSION,
        "spec": {"major": SPEC_MAJOR, "minor": SPEC_MINOR, "hash": SPEC_HASH},
        "server_info": {"name": "car-rpc", "version": __version__},
        "session_id": session_id,
        "capabilities": {
            "methods": METHODS,
            "backends": backends,
            "limits": {
                "max_message_bytes": max_message_bytes,
                "max_depth": MAX_DEPTH,
                "max_in_flight": MAX_IN_FLIGHT,
                "runner_buffer_bytes": RUNNER_BUFFER_BYTES,
                "max_batch": MAX_BATCH,
            },
        },
    }


def installed_backends() -> dict[str, dict[str, Any]]:
    """Which engines are installed, as ``BackendInfo``. Looks for them without importing them."""
    return {
        "local": _backend("llama_cpp", "llama"),
        "mlx": _backend("mlx_lm", "mlx"),
        "system": _backend("pocketsphinx", "speech"),
        "delegated": {"available": True},
        "fake": {"available": True},
    }


def _backend(library: str, extra: str) -> dict[str, Any]:
    if importlib.util.find_spec(library) is None:
        return {"available": False, "reason": f"install car-rpc with the extra `{extra}`"}
    return {"available": True}
