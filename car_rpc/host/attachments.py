"""Files that message content names: checked against the allowed roots, then carried inline.

Message content is not trusted, so a ``path`` source must lie below the state directory or a
root that the app allowed. It is inlined before a runner or a server sees the request; the core
never fetches a ``url``.
"""

from __future__ import annotations

import asyncio
import base64
import mimetypes
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.errors import CarError
from car_rpc.wire.base import decode_object
from car_rpc.wire.content import PathSource, ToolResultBlock
from car_rpc.wire.inference import GenerateRequest

#: Most bytes of files in one request: base64 of it still fits a message of the default limit.
MAX_ATTACHED_BYTES = 48 * 1024 * 1024


def names_files(request: GenerateRequest) -> bool:
    """Whether any content block has a ``path`` source."""
    messages = request.messages if isinstance(request.messages, list) else []
    blocks: list[Any] = [
        block for m in messages if isinstance(m.content, list) for block in m.content
    ]
    blocks += request.images if isinstance(request.images, list) else []
    nested = [block.content for block in blocks if isinstance(block, ToolResultBlock)]
    blocks += [block for content in nested if isinstance(content, list) for block in content]
    return any(isinstance(getattr(block, "source", UNSET), PathSource) for block in blocks)


async def inline(
    request: GenerateRequest, raw: bytes, roots: Sequence[Path]
) -> tuple[GenerateRequest, bytes]:
    """The request with its files in it, typed and as the client's own JSON, patched.

    Raises:
        CarError: ``policy_denied`` for a file outside the roots, ``io_error`` for one that
            cannot be read, ``invalid_params`` when the files are too large together.
    """
    if not names_files(request):
        return request, raw
    patched = await asyncio.to_thread(_patched, raw, roots)
    return msgspec.json.decode(patched, type=GenerateRequest), patched


def _patched(raw: bytes, roots: Sequence[Path]) -> bytes:
    params = decode_object(raw)
    room = MAX_ATTACHED_BYTES
    for place, block in _blocks(params):
        source: dict[str, Any] = block.get("source") or {}
        if source.get("type") == "path":
            path = _allowed(source["path"], roots, place)
            data = _read(path, room, place)
            room -= len(data)
            media_type = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
            encoded = base64.b64encode(data).decode()
            # The rest of it is the client's own, and is for whoever gets the request.
            del source["path"]
            source |= {"type": "base64", "media_type": media_type, "data": encoded}
    return msgspec.json.encode(params)


def _blocks(params: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """All content blocks, each behind its JSONPath."""
    yield from _numbered(params.get("images") or (), "$.images")
    for message_place, message in _numbered(params.get("messages") or (), "$.messages"):
        for place, block in _numbered(_content(message), f"{message_place}.content"):
            yield place, block
            if block["type"] == "tool_result":
                yield from _numbered(_content(block), f"{place}.content")


def _numbered(items: Sequence[dict[str, Any]], place: str) -> Iterator[tuple[str, dict[str, Any]]]:
    return ((f"{place}[{index}]", item) for index, item in enumerate(items))


def _content(holder: dict[str, Any]) -> list[dict[str, Any]]:
    content: list[dict[str, Any]] | str | None = holder.get("content")
    return content if isinstance(content, list) else []


def _allowed(name: str, roots: Sequence[Path], place: str) -> Path:
    # Resolving first is what makes `..` and symbolic links harmless.
    try:
        path = Path(name).resolve()
    except (OSError, RuntimeError, ValueError):  # a circle of links, or a null character
        path = None
    if path is None or not any(path.is_relative_to(root.resolve()) for root in roots):
        raise CarError(
            "policy_denied",
            f"the file {name} is outside the allowed paths; start with --allow-path or name"
            f" its folder in `allowed_paths` of `initialize` - at `{place}`",
            path=name,
        )
    return path


def _read(path: Path, room: int, place: str) -> bytes:
    try:
        if not path.is_file():
            why = "it is no file" if path.exists() else "it is not there"
            raise _unreadable(path, why, place)
        if path.stat().st_size > room:
            detail = (
                f"the files of a request may have {MAX_ATTACHED_BYTES} bytes together;"
                f" {path} is too much - at `{place}`"
            )
            raise CarError("invalid_params", detail, path=str(path))
        return path.read_bytes()
    except OSError as error:
        raise _unreadable(path, str(error.strerror), place) from None


def _unreadable(path: Path, why: str, place: str) -> CarError:
    return CarError("io_error", f"cannot read {path}: {why} - at `{place}`", path=str(path))
