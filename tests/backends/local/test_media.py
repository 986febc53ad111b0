"""Images and recordings of a request: who is asked about them, where they stand, how many."""

from typing import Any

import msgspec
import pytest

from car_rpc.backends.local import media as limits
from car_rpc.backends.local.sampling import to_worker
from car_rpc.errors import CarError
from car_rpc.testing import scripted_model
from car_rpc.wire.content import Message, TextBlock
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.media import MAX_MEDIA, media_of
from car_rpc.wire.models import LocalSource, MlxSource
from car_rpc.wire.worker import Generate

SEEING = LocalSource(path="/m.gguf", mmproj_path="/mmproj.gguf")
DATA = {"type": "base64", "media_type": "image/png", "data": "AA=="}
AUDIO = {"type": "audio", "source": DATA | {"media_type": "audio/wav"}}
TEXT = {"type": "text", "text": "x"}


def image(data: str = "AA==") -> dict[str, Any]:
    return {"type": "image", "source": DATA | {"data": data}}


def frame(source: Any = SEEING, backend: str = "llama_cpp", **request: Any) -> Generate:
    model = msgspec.structs.replace(scripted_model("a/b:c", []), source=source)
    return to_worker(model, msgspec.convert(request, GenerateRequest), backend, 1)


def refusal(source: Any = SEEING, backend: str = "llama_cpp", **request: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        frame(source, backend, **request)
    return caught.value


def user(*blocks: Any) -> dict[str, Any]:
    return {"role": "user", "content": [*blocks]}


def data_of(made: Generate) -> list[str]:
    return [block.source.data for block in media_of(made.messages)]  # type: ignore[union-attr]


def test_each_is_called_by_the_place_where_the_client_put_it() -> None:
    result = {"type": "tool_result", "tool_use_id": "t", "content": [TEXT, image("cc==")]}
    made = frame(
        context="be brief",
        messages=[
            user(TEXT, image("aa==")),
            {"role": "assistant", "content": "y"},
            user(image("bb==")),
            {"role": "tool", "content": [result]},
        ],
        images=[image("dd=="), AUDIO],
    )
    assert dict(zip(made.places, data_of(made), strict=True)) == {
        "$.messages[0].content[1]": "aa==",
        "$.messages[2].content[0]": "bb==",
        "$.images[0]": "dd==",
        "$.images[1]": "AA==",
        "$.messages[3].content[0].content[1]": "cc==",
    }


def test_images_belong_to_the_last_user_turn() -> None:
    made = frame(prompt="what?", images=[image()])
    assert made.messages[-1].content[0] == TextBlock(text="what?")
    assert made.places == ["$.images[0]"]
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    made = frame(messages=turns, images=[image()])
    assert [isinstance(turn.content, list) for turn in made.messages] == [True, False]
    error = refusal(messages=[{"role": "assistant", "content": "b"}], images=[image()])
    assert (error.kind, error.data["path"]) == ("invalid_request", "$.images")


def test_text_alone_goes_on_as_it_is() -> None:
    made = frame(prompt="x", images=[])
    assert (made.messages, made.places) == ([Message(role="user", content="x")], [])


@pytest.mark.parametrize(
    ("source", "backend", "reason"),
    [
        (LocalSource(path="/m.gguf"), "llama_cpp", "has no projector; register it with"),
        (MlxSource(path="/m"), "mlx", "this engine reads text only"),
    ],
)
def test_a_model_that_does_not_see_is_not_loaded_for_an_image(
    source: Any, backend: str, reason: str
) -> None:
    error = refusal(source, backend, messages=[user(TEXT, image())])
    assert error.kind == "unsupported_mode"
    assert f"mode image-content-block not implemented on backend {backend}: " in error.message
    assert reason in error.message
    assert error.data["path"] == "$.messages[0].content[1]"


@pytest.mark.parametrize(
    ("kind", "media_type"),
    [
        ("video", "video/mp4"),
        ("document", "application/pdf"),
        ("document", "text/plain"),
        ("image", "application/pdf"),
    ],
)
def test_what_no_projector_reads_is_refused(kind: str, media_type: str) -> None:
    block = {"type": kind, "source": DATA | {"media_type": media_type}}
    for where, request in (("images[0]", {"images": [block]}), ("messages[0].content[0]", {})):
        asked: Any = request or {"messages": [user(block)]}
        error = refusal(prompt="x", **asked)
        assert (error.kind, error.data["path"]) == ("unsupported_mode", f"$.{where}")


def test_there_are_so_many_at_most() -> None:
    assert len(frame(prompt="x", images=[image()] * MAX_MEDIA).places) == MAX_MEDIA
    error = refusal(prompt="x", images=[image()] * (MAX_MEDIA + 1))
    assert (error.kind, error.data["path"]) == ("invalid_request", f"$.images[{MAX_MEDIA}]")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        ("AAA*", "is not base64"),
        ("AAA", "is not base64"),
        ("data:image/png;base64,AA==", "is not base64"),
        ("", "is empty"),
    ],
)
def test_what_is_no_base64_is_refused_before_a_model_is_loaded(data: str, problem: str) -> None:
    error = refusal(messages=[user(TEXT, image(data))])
    assert (error.kind, error.data["path"]) == ("invalid_request", "$.messages[0].content[1]")
    assert f"its `data` {problem}" in error.message


def test_each_has_so_many_bytes_at_most(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "_MAX_LETTERS", 8)
    assert frame(prompt="x", images=[image("A" * 8)]).places
    error = refusal(prompt="x", images=[image("A" * 12)])
    assert (error.kind, error.data["path"]) == ("invalid_request", "$.images[0]")
    assert "bytes" in error.message


def test_an_address_is_not_fetched() -> None:
    block = {"type": "image", "source": {"type": "url", "url": "https://example.org/a.png"}}
    assert "nothing is fetched" in refusal(prompt="x", images=[block]).message
