"""The demo model's recorded answers, given by the real process."""

import json
from pathlib import Path
from typing import Any

import pytest

from car_rpc.client import CarClient
from tests.process.conftest import ROOT

pytestmark = [pytest.mark.process, pytest.mark.llama]

F16 = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
GOLDEN: list[dict[str, Any]] = json.loads(
    (ROOT / "tools" / "demo_model" / "golden.json").read_text(encoding="utf-8")
)
#: Smallest gap between the two likeliest tokens' logits at which no CPU's rounding changes the
#: answer.
SAFE_MARGIN = 0.5


def on_the_wire(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {"id": f"call_{index}", **call["function"]}
        for index, call in enumerate(message.get("tool_calls", []))
    ]
    return {**message, "tool_calls": calls} if calls else message


def spelled(result: Any) -> str:
    """The answer as the model spelled it."""
    calls = [
        "<tool_call>\n"
        + json.dumps({"name": call.name, "arguments": call.arguments}, ensure_ascii=False)
        + "\n</tool_call>"
        for call in result.tool_calls
    ]
    answer = "\n".join(([result.text] if result.text else []) + calls)
    reasoning = result.reasoning if isinstance(result.reasoning, str) else ""
    return f"<think>\n{reasoning}\n</think>\n\n{answer}" if reasoning else answer


async def test_the_demo_model_answers_as_recorded(tmp_path: Path) -> None:
    safe = [each for each in GOLDEN if each["f16_margin"] > SAFE_MARGIN]
    assert len(safe) >= 10
    async with CarClient.start(arguments=["--state-dir", str(tmp_path)]) as car:
        source = {"type": "local", "path": str(F16)}
        model = {"id": "test/chat:f16", "source": source, "capabilities": ["generate"]}
        await car.register_model(model)
        for each in safe:
            request: dict[str, Any] = {
                "messages": [on_the_wire(message) for message in each["messages"]],
                "params": {"temperature": 0, "thinking": "on" if each["thinking"] else "off"},
            }
            if each["tools"]:
                request["tools"] = each["tools"]
            result = await car.generate(model="test/chat:f16", **request)
            assert spelled(result) == each["f16"], each["messages"]
