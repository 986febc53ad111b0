"""Whether a model understands the kinds of content that a request holds. Pure.

Some servers drop an image that their model cannot see, and the model then makes one up. So a
model is asked only about what its capabilities name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple
from urllib.parse import urlsplit

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.content import (
    AudioBlock,
    Base64Source,
    ContentBlock,
    DocumentBlock,
    ImageBlock,
    PathSource,
    Source,
    ToolResultBlock,
    UrlSource,
    VideoBlock,
)
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.media import SENSES
from car_rpc.wire.models import Capability, LocalSource, MlxSource, ModelSchema

_PDF = "application/pdf"


class Content(NamedTuple):
    """A block of a request that not every model understands.

    Attributes:
        kind: What it is, for people.
        capability: What its model must be able to do.
        path: Where it stands in the request.
        source: Where it comes from.
    """

    kind: str
    capability: Capability
    path: str
    source: Source


def contents_of(request: GenerateRequest) -> list[Content]:
    """All that a request holds beside text.

    Images, and documents that are no plain text, need the capability ``vision`` (or ``grounding``,
    which is that and more), sound needs ``audio_understanding``, videos need
    ``video_understanding``.
    """
    return [*_contents(request)]


def unsupported(model: ModelSchema, contents: Sequence[Content]) -> CarError | None:
    """The refusal of the first content that a model does not understand, if there is any.

    A model on this machine takes nothing that would have to be fetched.

    Returns:
        An ``invalid_request`` whose ``path`` names the block, or ``None``. It is an
        ``unsupported_mode`` for what is not fetched, and for a GGUF model without a projector.
    """
    if not contents:
        return None
    is_local = isinstance(model.source, LocalSource | MlxSource)
    capabilities = {*model.capabilities}
    if "grounding" in capabilities:
        capabilities.add("vision")  # who finds things in an image sees it
    for kind, capability, path, source in contents:
        if is_local and isinstance(source, UrlSource):
            reason = f"nothing is fetched; send {path} as `base64` or `path`"
            return unsupported_mode(f"{kind}-url", "local", reason)
        if capability not in capabilities and isinstance(model.source, LocalSource):
            return _without_projector(model, model.source, kind, capability, path)
        if capability not in capabilities:
            detail = f"model '{model.id}' does not support {kind} input at {path}"
            return CarError("invalid_request", detail, path=f"$.{path}", model=model.id)
    return None


def _without_projector(
    model: ModelSchema, source: LocalSource, kind: str, capability: Capability, path: str
) -> CarError:
    projector = source.mmproj_path
    if kind not in ("image", "audio"):
        reason = f"no model on this machine reads a {kind}; send images of it, or ask another model"
    elif isinstance(projector, str) and not SENSES.isdisjoint(model.capabilities):
        reason = (
            f"the projector {projector} of {model.id} is not for {kind}; ask another model, or"
            f" register this one with a projector that is, and with `{capability}`"
        )
    elif isinstance(projector, str):
        reason = f"{model.id} needs its projector {projector} and the capability `{capability}`"
    else:
        reason = f"{model.id} has no projector; register it with `mmproj_path` and `{capability}`"
    where = f"$.{path}"
    reason = f"{reason} - at `{where}`"
    mode = f"{kind}-content-block"
    return unsupported_mode(mode, "llama_cpp", reason, path=where, model=model.id)


def _contents(request: GenerateRequest) -> Iterator[Content]:
    messages = request.messages if isinstance(request.messages, list) else []
    for index, message in enumerate(messages):
        if not isinstance(message.content, str):
            yield from _contents_of(message.content, f"messages[{index}].content")
    if isinstance(request.images, list):
        yield from _contents_of(request.images, "images")


def _contents_of(blocks: Sequence[ContentBlock], path: str) -> Iterator[Content]:
    for position, block in enumerate(blocks):
        where = f"{path}[{position}]"
        match block:
            case ToolResultBlock() if not isinstance(block.content, str):
                yield from _contents_of(block.content, f"{where}.content")
            case ImageBlock() | DocumentBlock() if _is_pdf(block.source):
                yield Content("pdf", "vision", where, block.source)
            case ImageBlock():
                yield Content("image", "vision", where, block.source)
            case DocumentBlock() if not _is_text(block.source):
                yield Content("document", "vision", where, block.source)
            case AudioBlock():
                yield Content("audio", "audio_understanding", where, block.source)
            case VideoBlock():
                yield Content("video", "video_understanding", where, block.source)
            case _:
                pass


def _is_pdf(source: Source) -> bool:
    match source:
        case Base64Source():
            return source.media_type.partition(";")[0].strip().lower() == _PDF
        case UrlSource():
            return _url_path(source.url).endswith(".pdf")
        case PathSource():
            return source.path.lower().endswith(".pdf")


def _url_path(url: str) -> str:
    try:
        return urlsplit(url).path.lower()
    except ValueError:  # no URL at all
        return ""


def _is_text(source: Source) -> bool:
    return isinstance(source, Base64Source) and source.media_type.lower().startswith("text/")
