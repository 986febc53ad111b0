"""A model is asked only about content that it understands; the refusal names the very block."""

from typing import Any

import msgspec
import pytest

from car_rpc.engine.modality import contents_of, unsupported
from car_rpc.testing import scripted_model
from car_rpc.wire.events import Attempt, TextDelta
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import LocalSource, ModelSchema

DATA = {"type": "base64", "media_type": "image/png", "data": "AA=="}
IMAGE = {"type": "image", "source": DATA}
AUDIO = {"type": "audio", "source": DATA | {"media_type": "audio/wav"}}
VIDEO = {"type": "video", "source": {"type": "url", "url": "https://example.org/a.mp4"}}
PDF = {"type": "document", "source": DATA | {"media_type": "Application/PDF; x=1"}}
PDF_URL = {"type": "document", "source": {"type": "url", "url": "https://e.org/A.PDF?page=1#2"}}
PDF_PATH = {"type": "document", "source": {"type": "path", "path": "/tmp/a.pdf"}}
PDF_AS_IMAGE = {"type": "image", "source": PDF_URL["source"]}
WORD = {"type": "document", "source": DATA | {"media_type": "application/msword"}}
NO_URL = {"type": "document", "source": {"type": "url", "url": "http://[.pdf"}}
PLAIN = {"type": "document", "source": DATA | {"media_type": "text/plain"}}
TEXT = {"type": "text", "text": "a.pdf"}


def result(*blocks: Any) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": "c", "content": [*blocks]}


def turn(*blocks: Any, role: str = "user") -> dict[str, Any]:
    return {"role": role, "content": [*blocks]}


def refusal(*capabilities: Any, **request: Any) -> str | None:
    model = scripted_model("a/b:c", [], ["generate", *capabilities])
    found = unsupported(model, contents_of(msgspec.convert(request, GenerateRequest)))
    if found is None:
        return None
    assert found.kind == "invalid_request"
    assert found.data["path"] == "$." + found.message.rpartition(" at ")[2]
    return found.message


@pytest.mark.parametrize(
    ("block", "kind", "capability"),
    [
        (IMAGE, "image", "vision"),
        (AUDIO, "audio", "audio_understanding"),
        (VIDEO, "video", "video_understanding"),
        (PDF, "pdf", "vision"),
        (PDF_URL, "pdf", "vision"),
        (PDF_PATH, "pdf", "vision"),
        (PDF_AS_IMAGE, "pdf", "vision"),
        (WORD, "document", "vision"),
        (NO_URL, "document", "vision"),
    ],
)
def test_each_kind_needs_its_capability(block: Any, kind: str, capability: str) -> None:
    messages = [{"role": "system", "content": "s"}, turn(TEXT, block)]
    others = {"vision", "audio_understanding", "video_understanding"} - {capability}
    text = f"invalid request: model 'a/b:c' does not support {kind} input at messages[1].content[1]"
    assert refusal(*others, messages=messages) == text
    assert refusal(capability, messages=messages) is None


@pytest.mark.parametrize(
    ("request_fields", "path"),
    [
        ({"prompt": "p", "images": [TEXT, IMAGE]}, "images[1]"),
        ({"messages": [turn(result(TEXT, IMAGE))]}, "messages[0].content[0].content[1]"),
        ({"messages": [turn(result(IMAGE), role="tool")]}, "messages[0].content[0].content[0]"),
        ({"messages": [turn(IMAGE)], "images": [IMAGE]}, "messages[0].content[0]"),
        ({"messages": [turn(TEXT), turn(IMAGE, role="assistant")]}, "messages[1].content[0]"),
    ],
)
def test_the_path_is_that_of_the_block_wherever_it_is(
    request_fields: dict[str, Any], path: str
) -> None:
    said = refusal(**request_fields)
    assert said is not None
    assert said.endswith(f" does not support image input at {path}")


@pytest.mark.parametrize(
    "request_fields",
    [
        {"prompt": "see a.pdf"},
        {"messages": [turn(TEXT, PLAIN, result(TEXT))]},
        {"messages": [{"role": "tool", "tool_call_id": "c", "content": "data:image/png"}]},
        {"prompt": "p", "images": []},
    ],
)
def test_text_needs_nothing(request_fields: dict[str, Any]) -> None:
    assert refusal(**request_fields) is None


def test_who_finds_things_in_images_sees_them() -> None:
    assert refusal("grounding", messages=[turn(IMAGE, PDF)]) is None


def test_a_model_on_this_machine_takes_nothing_that_must_be_fetched() -> None:
    model = ModelSchema(
        id="a/b:c", source=LocalSource(path="/m.gguf"), capabilities=["generate", "vision"]
    )
    for block, kind in ((PDF_URL, "unsupported_mode"), (IMAGE, None)):
        request = msgspec.convert({"messages": [turn(TEXT, block)]}, GenerateRequest)
        found = unsupported(model, contents_of(request))
        assert (found and found.kind) == kind


def test_a_gguf_model_is_told_what_it_lacks() -> None:
    request = msgspec.convert({"messages": [turn(TEXT, IMAGE)]}, GenerateRequest)
    for source, lacks in (
        (LocalSource(path="/m.gguf"), "has no projector; register it with `mmproj_path`"),
        (LocalSource(path="/m.gguf", mmproj_path="/p.gguf"), "needs its projector /p.gguf"),
    ):
        model = ModelSchema(id="a/b:c", source=source, capabilities=["generate"])
        found = unsupported(model, contents_of(request))
        assert found is not None
        assert found.kind == "unsupported_mode"
        assert lacks in found.message
        assert found.data["path"] == "$.messages[0].content[1]"


@pytest.mark.parametrize(
    ("block", "says"),
    [
        (AUDIO, "the projector /p.gguf of a/b:c is not for audio"),
        (VIDEO | {"source": DATA}, "no model on this machine reads a video"),
    ],
)
def test_a_gguf_model_that_only_sees_asks_for_nothing_that_would_not_help(
    block: Any, says: str
) -> None:
    source = LocalSource(path="/m.gguf", mmproj_path="/p.gguf")
    model = ModelSchema(id="a/b:c", source=source, capabilities=["generate", "vision"])
    request = msgspec.convert({"messages": [turn(TEXT, block)]}, GenerateRequest)
    found = unsupported(model, contents_of(request))
    assert found is not None
    assert (found.kind, found.data["path"]) == ("unsupported_mode", "$.messages[0].content[1]")
    assert says in found.message


@pytest.fixture
def seeing(world: Any, play: Any) -> Any:
    """A registry whose first model is blind and whose second one sees."""
    world.registry.register(scripted_model("test/three:a", [], ["generate", "vision"]))
    world.backend.play = play(TextDelta(text="a cat"))
    return world


async def test_a_model_that_cannot_see_the_images_is_passed_over_and_the_log_says_why(
    seeing: Any,
) -> None:
    result = await seeing.generate(images=[IMAGE])

    assert result.model_used == "test/three:a"
    assert [e.model for e in seeing.listener.events if isinstance(e, Attempt)] == ["test/three:a"]
    (route,) = [entry.data for entry in seeing.sink.entries if entry.type == "route"]
    _, blind = route["candidates"]
    assert (blind.model_id, blind.why_not) == ("test/one:a", "lacks vision")
    assert (route["model"], route["fallbacks"]) == ("test/three:a", [])


async def test_a_model_that_was_asked_for_refuses_what_it_cannot_see(seeing: Any) -> None:
    failure = await seeing.failure(model="test/one:a", images=[IMAGE])

    assert failure.message == (
        "invalid request: model 'test/one:a' does not support image input at images[0]"
    )
    assert failure.data["path"] == "$.images[0]"
    assert seeing.backend.calls == []


async def test_when_no_model_understands_it_the_first_one_says_so(world: Any) -> None:
    failure = await world.failure(images=[VIDEO])

    assert failure.kind == "invalid_request"
    assert "'test/one:a' does not support video input" in failure.message
