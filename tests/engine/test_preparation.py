"""What a model is told that the client did not say, and when."""

from typing import Any

import msgspec
import pytest

from car_rpc.engine.asked import Asked
from car_rpc.engine.preparation import prepared
from car_rpc.testing import scripted_model
from car_rpc.wire.events import TextDelta
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema

COMPLEX = "Compare both plans step by step"
NOTE = (
    "\n\nIMPORTANT: When calling the `done` tool, the `result` field MUST contain a DETAILED "
    "summary of everything you found and did. This is the ONLY output the user sees. Do NOT just "
    "say 'completed' — include specific findings, data, and conclusions."
)


def model(*supported_params: str) -> ModelSchema:
    bare = scripted_model("a/b:c", [])
    return msgspec.structs.replace(bare, supported_params=[*supported_params])


THINKER = model("temperature", "extended_thinking")


def tool(name: str) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name}}


def asked(text: bytes) -> Asked:
    return Asked(msgspec.json.decode(text, type=GenerateRequest), text, 1, None)


def asked_for(**members: Any) -> Asked:
    return asked(msgspec.json.encode(members))


def budget(model: ModelSchema, **members: Any) -> object:
    told = prepared(asked_for(**members), model)
    assert told.members().get("params", {}).get("budget_tokens", msgspec.UNSET) == (
        told.request.params.budget_tokens
    )
    return told.request.params.budget_tokens


@pytest.mark.parametrize(
    ("model", "members", "tokens"),
    [
        (THINKER, {"prompt": COMPLEX}, 8000),
        (THINKER, {"messages": [{"role": "user", "content": COMPLEX}]}, 8000),
        (THINKER, {"prompt": COMPLEX, "params": {"budget_tokens": 0}}, 8000),
        (THINKER, {"prompt": COMPLEX, "params": {"thinking": "auto", "top_k": 3}}, 8000),
        (THINKER, {"prompt": COMPLEX, "params": {"budget_tokens": 5}}, 5),
        (THINKER, {"prompt": COMPLEX, "params": {"thinking": "off"}}, msgspec.UNSET),
        (THINKER, {"prompt": "What time is it?"}, msgspec.UNSET),
        (THINKER, {"prompt": "Write a letter to my landlord about noise."}, msgspec.UNSET),
        (THINKER, {"prompt": "Fix the bug in main.py"}, msgspec.UNSET),
        (THINKER, {"messages": [{"role": "assistant", "content": COMPLEX}]}, msgspec.UNSET),
        (model("temperature"), {"prompt": COMPLEX}, msgspec.UNSET),
        (model(), {"prompt": COMPLEX}, msgspec.UNSET),
    ],
)
def test_only_a_complex_request_to_a_model_that_can_gets_a_thinking_budget(
    model: ModelSchema, members: dict[str, Any], tokens: object
) -> None:
    assert budget(model, **members) == tokens


def test_with_a_tool_named_done_the_model_is_told_what_to_put_into_it() -> None:
    told = prepared(
        asked_for(prompt="p", context="Be kind.", tools=[tool("f"), tool("done")]), THINKER
    )
    assert told.request.context == told.members()["context"] == "Be kind." + NOTE


def test_without_a_context_the_note_is_the_context() -> None:
    assert prepared(asked_for(prompt="p", tools=[tool("done")]), THINKER).request.context == NOTE


@pytest.mark.parametrize("tools", [{}, {"tools": []}, {"tools": [tool("Done"), tool("done_it")]}])
def test_otherwise_the_request_goes_on_as_it_came(tools: dict[str, Any]) -> None:
    request = asked_for(prompt="p", context="c", **tools)
    assert prepared(request, THINKER) is request


def test_all_else_stays_as_the_client_wrote_it() -> None:
    text = (
        b'{"prompt":"p","unknown":1.10,"params":{"seed":18446744073709551615,"x":[1e400]},'
        b'"tools":[{"type":"function","function":{"name":"done"}}]}'
    )
    told = prepared(asked(text), THINKER)
    assert told.raw.startswith(text[:-1])
    told = prepared(asked(text.replace(b'"p"', b'"' + COMPLEX.encode() + b'"')), THINKER)
    assert b'"params":{"seed":18446744073709551615,"x":[1e400],"budget_tokens":8000}' in told.raw


async def test_the_model_sees_it_and_the_log_keeps_what_was_asked(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text="ok"))

    await world.generate(tools=[tool("done")])

    (call,) = world.backend.calls
    assert call.request.context == msgspec.json.decode(call.raw_request)["context"] == NOTE
    (request,) = [entry.data for entry in world.sink.entries if entry.type == "request"]
    assert b"IMPORTANT" not in bytes(request["params"])
