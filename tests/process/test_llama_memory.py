"""What models remember, on real processes: conversations that go on, and long prompts."""

from pathlib import Path

import pytest

pytest.importorskip("gguf")

from tests.process.conftest import StartCore
from tests.workers.conftest import write_model
from tests.workers.memories import WRITERS

pytestmark = [pytest.mark.process, pytest.mark.llama, pytest.mark.timeout(180)]

GREEDY = {"temperature": 0, "max_tokens": 20, "ignore_eos": True}


def test_a_conversation_goes_on_with_a_model_whose_memory_cannot_be_cut(
    start_core: StartCore, tmp_path: Path
) -> None:
    core = start_core()
    core.initialize()
    for kind, write in WRITERS.items():
        path = write(tmp_path / f"{kind}.gguf")
        model = core.register(f"t/{kind}:1", {"type": "local", "path": str(path)})
        messages = [{"role": "user", "content": "a" * 600}]
        first = core.call("generate", {"model": model, "messages": messages, "params": GREEDY})
        assert not first["usage"].get("cache_read_tokens")
        # Not what it said: as if a template left out what it thought.
        messages += [{"role": "assistant", "content": "B"}, {"role": "user", "content": "More."}]
        second = core.call("generate", {"model": model, "messages": messages, "params": GREEDY})
        assert second["usage"]["cache_read_tokens"] >= 600


def test_a_prompt_longer_than_the_others_is_given_the_context_that_the_model_knows(
    start_core: StartCore, tmp_path: Path
) -> None:
    core = start_core()
    core.initialize()
    path = str(write_model(tmp_path / "long.gguf", context=16384))
    free = core.register("t/long:1", {"type": "local", "path": path})
    request = {"prompt": "a" * 9000, "params": GREEDY}
    usage = core.call("generate", {"model": free, **request})["usage"]
    assert usage["prompt_tokens"] > 9000
    assert usage["completion_tokens"] == 20
    assert usage["context_window"] == 16384
    fixed = core.register("t/short:1", {"type": "local", "path": path, "context_length": 8192})
    error = core.fail("generate", {"model": fixed, **request})
    assert error["data"]["kind"] == "context_overflow"
    assert error["data"]["context_length"] == 8192
