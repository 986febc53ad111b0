"""The core is killed in the middle of an answer; another one gives the whole answer."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import StartCore, check_stream

pytestmark = [pytest.mark.process, pytest.mark.llama]

CHAT = "demo/tiny-chat:gguf"
QUESTION: dict[str, Any] = {
    "model": CHAT,
    "prompt": "Tell me a short story.",
    "params": {"temperature": 0, "max_tokens": 200},
}


def test_an_answer_goes_on_after_kill_9_of_the_core(
    start_core: StartCore, tmp_path: Path, proof_count: Callable[[int, int], int]
) -> None:
    state_dir = tmp_path / "shared"
    core = start_core(state_dir=state_dir)
    core.initialize()
    whole = core.call("generate", QUESTION)
    for _ in range(proof_count(2, 50)):
        stream = core.ask("generate", {**QUESTION, "stream": True})
        core.wait_for(
            lambda m, s=stream: (
                m.get("params", {}).get("request_id") == s
                and m["params"]["event"]["type"] == "text_delta"
                and m["params"]["seq"] > 30
            )
        )
        trace_id = core.stream(stream)[0]["event"]["trace_id"]
        os.kill(core.pid, signal.SIGKILL)
        core.wait()

        core = start_core(state_dir=state_dir)
        core.initialize()
        resumed = core.ask("generate", {"resume_trace_id": trace_id, "stream": True})
        result = core.response(resumed)["result"]
        check_stream(core.stream(resumed), "done")
        assert result["text"] == whole["text"]
        assert result["trace_id"] != trace_id
