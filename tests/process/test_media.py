"""Images and sound on real processes: a model with a projector behind the wire.

The weights are random, so nothing here depends on what the model says.
"""

import base64
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.conftest import ROOT, Core, check_stream, text_of
from tests.workers.projectors import SOUND_TOKENS, TOKENS, picture, tone, write_projector

pytestmark = [pytest.mark.process, pytest.mark.llama, pytest.mark.timeout(180)]

DEMO = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
WIDTH = 256
SEEING, BLIND, LATER = "t/seeing:1", "t/blind:1", "t/later:1"
ABILITIES = ["generate", "vision", "audio_understanding", "grounding"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("media")


@pytest.fixture(scope="module")
def core(folder: Path) -> Iterator[Core]:
    core = Core(folder / "state")
    core.initialize(allowed_paths=[str(folder)])
    projector = write_projector(folder / "mmproj.gguf", width=WIDTH, hears=True)
    core.register(SEEING, local(projector), *ABILITIES)
    core.register(BLIND, local(folder / "gone.gguf"), *ABILITIES)
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.kill()


def local(projector: Path) -> dict[str, Any]:
    return {"type": "local", "path": str(DEMO), "mmproj_path": str(projector)}


def block(content: bytes) -> dict[str, Any]:
    kind, media_type = ("audio", "audio/wav") if content[:4] == b"RIFF" else ("image", "image/png")
    data = base64.b64encode(content).decode()
    return {"type": kind, "source": {"type": "base64", "media_type": media_type, "data": data}}


def asked(*content: bytes | str | dict[str, Any], **fields: Any) -> dict[str, Any]:
    blocks = [
        {"type": "text", "text": each}
        if isinstance(each, str)
        else block(each)
        if isinstance(each, bytes)
        else each
        for each in content
    ]
    params = {"max_tokens": 8, "temperature": 0, "thinking": "off"}
    turn = {"role": "user", "content": blocks}
    return {"model": SEEING, "messages": [turn], "params": params, **fields}


def prompt_tokens(core: Core, *content: Any) -> int:
    return core.call("generate", asked(*content))["usage"]["prompt_tokens"]


def test_images_and_sound_are_read_and_counted(core: Core) -> None:
    plain = prompt_tokens(core, "Hello!")
    assert prompt_tokens(core, "Hello!", picture()) == plain + TOKENS
    assert prompt_tokens(core, tone(), "Hello!") == plain + SOUND_TOKENS


def test_an_answer_to_an_image_is_streamed(core: Core) -> None:
    stream = core.ask("generate", {**asked("What is it?", picture()), "stream": True})
    result = core.response(stream)["result"]
    check_stream(core.stream(stream))
    assert text_of(core.stream(stream)) == result["text"]
    assert result["model_used"] == SEEING


def test_a_file_is_carried_to_the_model_as_if_it_had_been_sent(core: Core, folder: Path) -> None:
    path = folder / "photo.png"
    path.write_bytes(picture())
    named = {"type": "image", "source": {"type": "path", "path": str(path)}}
    results = [
        core.call("generate", asked("x", each, "y")) for each in (picture(), named, picture())
    ]
    assert results[0]["text"] == results[2]["text"]
    cached = [each["usage"].get("cache_read_tokens", 0) for each in results]
    assert cached[1] == cached[2] == results[1]["usage"]["prompt_tokens"] - 1


def test_images_of_a_request_belong_to_its_last_turn(core: Core) -> None:
    request = {"model": SEEING, "prompt": "What is it?", "images": [block(picture())]}
    result = core.call("generate", {**request, "params": {"max_tokens": 4}})
    assert result["usage"]["prompt_tokens"] > TOKENS


@pytest.mark.parametrize(
    ("block_of", "kind"),
    [
        (lambda: {**block(b""), "type": "video"}, "unsupported_mode"),
        (
            lambda: {"type": "image", "source": {"type": "url", "url": "http://x"}},
            "unsupported_mode",
        ),
    ],
)
def test_what_cannot_be_read_is_refused_by_its_place(core: Core, block_of: Any, kind: str) -> None:
    error = core.fail("generate", asked("x", picture(), block_of()))
    assert error["data"]["kind"] == kind
    assert "messages[0].content[2]" in error["message"]


BAD = {
    "no image": lambda: block(b"nothing of use"),
    "half an image": lambda: block(picture()[:60]),
    "an image that is a sound": lambda: {**block(tone()), "type": "image"},
    "a sound that is an image": lambda: {**block(picture()), "type": "audio"},
    "half a sound": lambda: block(tone()[:2000]),
}


@pytest.mark.parametrize("case", BAD)
def test_bytes_that_are_none_cost_nobody_but_their_request(core: Core, case: str) -> None:
    """They are named wherever they stand; the process that looked at them lives on."""
    bad, good = BAD[case](), block(picture())
    core.call("generate", asked("x", good))
    workers = workers_of(core)
    told = {"type": "tool_result", "tool_use_id": "1", "content": [good, bad]}
    called = {"type": "tool_use", "id": "1", "name": "f", "input": {}}
    turns = [
        *asked("x")["messages"],
        {"role": "assistant", "content": [called]},
        {"role": "tool", "content": [told]},
    ]
    requests = {"$.messages[0].content[2]": asked("x", good, bad, good)}
    if bad["type"] == "image":  # which these may hold alone
        requests["$.messages[2].content[0].content[1]"] = {**asked(), "messages": turns}
        requests["$.images[1]"] = {"model": SEEING, "prompt": "x", "images": [good, bad]}
    for place, request in requests.items():
        error = core.fail("generate", request)
        assert error["data"]["kind"] == "invalid_request"
        assert error["data"]["path"] == place
        assert f"at `{place}`" in error["message"]
    if bad["type"] == "image":
        error = core.fail("ground", {"model": SEEING, "image": bad, "prompt": "x"})
        assert (error["data"]["kind"], error["data"]["path"]) == ("invalid_request", "$.image")
    assert core.call("generate", asked("x", good))["model_used"] == SEEING
    assert workers_of(core) == workers


def workers_of(core: Core) -> set[int]:
    return {child.pid for child in psutil.Process(core.pid).children(recursive=True)}


def test_a_cancel_ends_a_request_with_many_images(core: Core) -> None:
    request = asked(*[picture()] * 20, params={"max_tokens": 1000, "ignore_eos": True})
    sent = core.ask("generate", {**request, "stream": True})
    core.notify("$/cancelRequest", {"id": sent})
    assert core.response(sent)["error"]["data"]["kind"] == "cancelled"
    core.call("generate", asked("x", picture()))


def test_a_model_whose_projector_is_gone_reads_text_and_does_not_see(core: Core) -> None:
    listed = {each["id"]: each for each in core.call("models.list")["models"]}
    assert listed[BLIND]["capabilities"] == ["generate"]
    assert listed[BLIND]["available"]
    assert listed[BLIND]["reason"].endswith("gone.gguf is not there, so it reads text only")
    assert "reason" not in listed[SEEING]
    assert set(listed[SEEING]["capabilities"]) == set(ABILITIES)
    assert core.call("generate", {**asked("Hello!"), "model": BLIND})["model_used"] == BLIND
    error = core.fail("generate", {**asked("x", picture()), "model": BLIND})
    assert error["data"]["kind"] == "unsupported_mode"
    assert "needs its projector" in error["message"]
    anybody = asked("x", picture())
    del anybody["model"]
    route = core.call("models.route", anybody)
    assert route["model_id"] == SEEING


def test_ground_looks_at_the_image_on_this_machine(core: Core) -> None:
    result = core.call("ground", {"image": block(picture()), "prompt": "Find the dog."})
    assert result["model_used"] == SEEING
    assert isinstance(result["raw_text"], str)
    assert isinstance(result["boxes"], list)


def test_a_projector_of_another_model_is_no_crash(core: Core, folder: Path) -> None:
    projector = write_projector(folder / "narrow.gguf", width=64)
    core.register(LATER, local(projector), "generate", "vision")
    error = core.fail("generate", {**asked("x", picture()), "model": LATER})
    assert error["data"]["kind"] == "model_load_failed"
    assert "mismatch between text model (n_embd = 256) and mmproj (n_embd = 64)" in error["message"]


def test_a_projector_that_lacks_a_part_is_named_when_llama_cpp_crashes_at_it(
    core: Core, folder: Path
) -> None:
    projector = write_projector(folder / "part.gguf", width=WIDTH, lacks="mm.2")
    core.register("t/part:1", local(projector), "generate", "vision")
    error = core.fail("generate", {**asked("x", picture()), "model": "t/part:1"})
    assert error["data"]["kind"] == "model_load_failed"
    assert f"crashed while it was loaded with its projector {projector}" in error["message"]
    assert core.call("generate", asked("x", picture()))["model_used"] == SEEING
