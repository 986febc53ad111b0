"""The images and recordings of a request to a model on this machine. Pure."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Sequence

import msgspec
from msgspec import UNSET

from car_rpc.engine.modality import Content, contents_of
from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.content import Base64Source, ContentBlock, DocumentBlock, Message, TextBlock
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.media import MAX_MEDIA, MAX_MEDIUM_BYTES, media_of
from car_rpc.wire.models import LocalSource, ModelSchema

#: Letters of base64 that a file of the largest size takes.
_MAX_LETTERS = -(-MAX_MEDIUM_BYTES // 3) * 4


def places_of(
    model: ModelSchema, request: GenerateRequest, messages: Sequence[Message], backend: str
) -> list[str]:
    """Where each image and recording stands in a client's request, in the worker's order.

    Args:
        model: The model that is asked.
        request: What the client sent.
        messages: The same as it goes to the worker, with the client's own blocks.
        backend: Name of the backend, for errors.

    Raises:
        CarError: ``unsupported_mode`` for what this model does not read, ``invalid_request`` for
            what is too much; ``path`` names the block.
    """
    contents = contents_of(request)
    for content in contents:
        _check(model, content, backend)
    for path in _documents(request):  # those of plain text are no contents of their own
        raise _unread("document", path, backend, "put its text into the message")
    if len(contents) > MAX_MEDIA:
        raise _too_much(f"more than {MAX_MEDIA} images and recordings", contents[MAX_MEDIA])
    places = {id(content.source): f"$.{content.path}" for content in contents}
    return [places[id(block.source)] for block in media_of(messages)]


def with_images(messages: list[Message], images: Sequence[ContentBlock]) -> list[Message]:
    """The conversation with images behind the words of its last user turn.

    Raises:
        CarError: ``invalid_request`` when there is no such turn.
    """
    last = max((n for n, turn in enumerate(messages) if turn.role == "user"), default=None)
    if last is None:
        detail = "there is no user turn that they could belong to - at `$.images`"
        raise CarError("invalid_request", detail, path="$.images")
    said = messages[last].content
    before = [TextBlock(text=said)] if isinstance(said, str) else said
    turn = msgspec.structs.replace(messages[last], content=[*before, *images])
    return [*messages[:last], turn, *messages[last + 1 :]]


def _documents(request: GenerateRequest) -> Iterator[str]:
    turns = request.messages if isinstance(request.messages, list) else []
    lists = {f"messages[{n}].content": turn.content for n, turn in enumerate(turns)}
    for place, blocks in {**lists, "images": request.images}.items():
        for n, block in enumerate(blocks if isinstance(blocks, list) else []):
            if isinstance(block, DocumentBlock):
                yield f"{place}[{n}]"


def _check(model: ModelSchema, content: Content, backend: str) -> None:
    kind, path, source = content.kind, content.path, model.source
    if kind not in ("image", "audio") or backend != "llama_cpp":
        reads = "images and sound" if backend == "llama_cpp" else "text only"
        raise _unread(kind, path, backend, f"this engine reads {reads}; use another model")
    if not isinstance(source, LocalSource) or source.mmproj_path is UNSET:
        reason = f"{model.id} has no projector; register it with `mmproj_path`"
        raise _unread(kind, path, backend, reason)
    if not isinstance(content.source, Base64Source):
        raise _unread(kind, path, backend, "nothing is fetched; send it as `base64`")
    if len(content.source.data) > _MAX_LETTERS:
        raise _too_much(f"a file of more than {MAX_MEDIUM_BYTES} bytes", content)
    _check_base64(content.source.data, f"$.{path}")


def _check_base64(data: str, place: str) -> None:
    """Refuse here what needs no model to be loaded for it."""
    try:
        problem = "" if base64.b64decode(data, validate=True) else "is empty"
    except ValueError as error:
        problem = f"is not base64 ({error})"
    if problem:
        detail = (
            f"its `data` {problem}; send the bytes of the whole file, in base64 without line ends"
            f" or a `data:` before it - at `{place}`"
        )
        raise CarError("invalid_request", detail, path=place)


def _unread(kind: str, path: str, backend: str, reason: str) -> CarError:
    where = f"$.{path}"
    return unsupported_mode(
        f"{kind}-content-block", backend, f"{reason} - at `{where}`", path=where
    )


def _too_much(what: str, content: Content) -> CarError:
    path = f"$.{content.path}"
    detail = f"a model on this machine does not take {what} in a request - at `{path}`"
    return CarError("invalid_request", detail, path=path)
