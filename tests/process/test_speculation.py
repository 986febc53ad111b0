"""Speculation over the wire, with the model that comes along and its smaller copy."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import ROOT, Core, check_stream, text_of

pytestmark = [pytest.mark.process, pytest.mark.llama, pytest.mark.timeout(180)]

DEMO = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
SMALL = DEMO.with_name("tiny-chat-Q8_0.gguf")

LOOKUP, DRAFT = {"type": "lookup"}, {"type": "draft", "path": str(SMALL)}


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("speculation") / "state")
    core.initialize()
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


def register(core: Core, name: str, **source: Any) -> str:
    return core.register(f"t/tiny:{name}", {"type": "local", "path": str(DEMO), **source})


@pytest.mark.parametrize("speculation", [LOOKUP, DRAFT], ids=["lookup", "draft"])
def test_drafts_are_counted_and_their_answer_is_whole(
    core: Core, speculation: dict[str, Any]
) -> None:
    model = register(core, speculation["type"], speculation=speculation)
    params = {"temperature": 0, "max_tokens": 200, "ignore_eos": True}
    drafted = 0
    # How much is drafted depends on what a step takes on this machine.
    for _ in range(10):
        stream = core.generate(model, "Repeat: one two, one two, one two", params=params)
        result = core.response(stream)["result"]
        events = core.stream(stream)
        check_stream(events)
        assert text_of(events) == result["text"]
        usage = result["usage"]
        assert usage["completion_tokens"] == 200
        drafted += usage.get("draft_tokens", 0)
        assert usage.get("accepted_draft_tokens", 0) <= usage.get("draft_tokens", 0) <= drafted
        if drafted:
            break
    assert drafted


def test_a_source_says_how_it_guesses(core: Core) -> None:
    model = register(core, "told", speculation=DRAFT)
    (told,) = [m for m in core.call("models.list", {})["models"] if m["id"] == model]
    assert told["source"]["speculation"] == DRAFT


def test_a_draft_model_that_is_not_there_is_named(core: Core, tmp_path: Path) -> None:
    path = str(tmp_path / "none.gguf")
    model = register(core, "none", speculation={"type": "draft", "path": path})
    error = core.fail("generate", {"model": model, "prompt": "Hello"})
    assert error["data"]["kind"] == "io_error"
    assert path in error["message"]


def test_a_way_to_guess_that_is_none_is_refused(core: Core) -> None:
    source = {"type": "local", "path": str(DEMO), "speculation": {"type": "medusa"}}
    model = {"id": "t/tiny:medusa", "source": source, "capabilities": ["generate"]}
    error = core.fail("models.register", {"model": model})
    assert error["code"] == -32602
    assert error["data"]["path"] == "$.model.source.speculation.type"
