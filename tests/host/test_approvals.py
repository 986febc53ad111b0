"""What rules want approved is asked of the app, and happens only when it says so."""

import asyncio
from typing import Any

import pytest

from car_rpc.eventlog.story import problems
from car_rpc.host.approver import ApproverHost
from car_rpc.wire.policy import PolicyApproveParams, PolicySubject

TOOL_CALL = [
    {"type": "text_delta", "text": "so "},
    {"type": "tool_call_start", "index": 0, "id": "c", "name": "shell"},
    {"type": "tool_call_delta", "index": 0, "id": "c", "arguments_delta": '{"cmd": "ls"}'},
    {"type": "content_block_stop", "index": 0},
    {"type": "text_delta", "text": "done"},
]


async def ask_first(app: Any, **rule: Any) -> None:
    rule = {"id": "ask", "action": "require_approval", "reason": "it costs", **rule}
    answer = await app.call("rules", "policy.set", rules=[rule])
    assert "result" in answer, answer
    app.sink.entries.clear()


async def question(app: Any) -> Any:
    return await app.method("policy.approve")


def answer(app: Any, asked: Any, **result: Any) -> None:
    app.send({"id": asked["id"], "result": result})


def decisions(app: Any) -> list[str]:
    return [entry.data["decision"] for entry in app.sink.entries if entry.type == "policy"]


def told(app: Any, request_id: Any) -> list[str]:
    return [each["event"]["type"] for each in app.events(request_id)]


async def register(app: Any, *events: dict[str, Any]) -> str:
    source = {"type": "fake", "script": [{"emit": event} for event in events]}
    model = {"id": "test/calls:a", "source": source, "capabilities": ["generate"]}
    assert "result" in await app.call("register", "models.register", model=model)
    return "test/calls:a"


async def test_a_request_waits_for_the_app_and_then_runs(app: Any) -> None:
    app.services.runner.register()
    await ask_first(app, match={"models": ["test/app:*"]}, deadline_ms=5000)
    app.request(1, "generate", prompt="hi", model="test/app:a")
    asked = await question(app)
    assert not [m for m in app.read() if m.get("method") == "runner.run"]
    params = asked["params"]
    assert params["subject"] == {"method": "generate", "model": "test/app:a"}
    assert (params["rule_id"], params["reason"]) == ("ask", "it costs")
    assert params["deadline_ms"] == 5000
    answer(app, asked, approved=True, reason="fine")
    run = await app.method("runner.run")
    assert run["params"]["trace_id"] == params["trace_id"]
    app.send({"id": run["id"], "result": {"text": "yes"}})
    assert (await app.answer(1))["result"]["text"] == "yes"
    assert decisions(app) == ["approved"]
    app.sink.committed = len(app.sink.entries)
    assert not list(problems(await app.sink.story(params["trace_id"])))


@pytest.mark.parametrize(
    ("said", "reason"),
    [
        ({"result": {"approved": False, "reason": "no money"}}, "it costs; no money"),
        ({"result": {"approved": False}}, "it costs; the app did not approve"),
        ({"result": {"approved": "yes"}}, "it costs; the app's answer is malformed"),
        ({"result": None}, "it costs; the app's answer is malformed"),
        ({"error": {"code": -32601, "message": "?"}}, "it costs; the app has no handler"),
        ({"error": {"code": 7, "message": "oh"}}, "it costs; the app failed to answer: oh"),
    ],
)
async def test_whatever_is_no_approval_is_a_refusal(app: Any, said: Any, reason: str) -> None:
    await ask_first(app)
    app.request(1, "generate", prompt="hi", model="test/echo:a", stream=True)
    app.send({"id": (await question(app))["id"], **said})
    error = (await app.answer(1))["error"]
    assert (error["code"], error["data"]["rule_id"]) == (1020, "ask")
    assert error["data"]["reason"].startswith(reason)
    assert told(app, 1) == ["error"]
    assert decisions(app) == ["denied"]


async def test_an_app_that_is_late_is_told_so_and_its_answer_is_nothing(
    app: Any, clock: Any
) -> None:
    await ask_first(app, deadline_ms=3000)
    app.request(1, "generate", prompt="hi", model="test/echo:a")
    asked = await question(app)
    await clock.advance(3.1)
    error = (await app.answer(1))["error"]
    assert error["data"]["reason"] == "it costs; the app did not answer within 3000 ms"
    cancel = await app.method("$/cancelRequest")
    assert cancel["params"] == {"id": asked["id"]}
    answer(app, asked, approved=True)
    assert app.answered() == ["rules", 1]


async def test_a_cancel_takes_the_question_back(app: Any) -> None:
    await ask_first(app)
    app.request(1, "generate", prompt="hi", model="test/echo:a", stream=True)
    asked = await question(app)
    app.notify("$/cancelRequest", id=1)
    assert (await app.answer(1))["error"]["data"]["kind"] == "cancelled"
    assert (await app.method("$/cancelRequest"))["params"] == {"id": asked["id"]}
    assert told(app, 1) == ["error"]


async def test_an_app_that_is_gone_approves_of_nothing(app: Any) -> None:
    await ask_first(app)
    app.request(1, "generate", prompt="hi", model="test/echo:a")
    await question(app)
    app.runner.abandon()
    error = (await app.answer(1))["error"]
    assert error["data"]["reason"] == "it costs; the app closed its side before it answered"


async def test_one_question_is_enough_for_all_attempts_on_a_model(app: Any) -> None:
    source = {"type": "fake", "script": [{"fail": {"kind": "overloaded", "message": "busy"}}]}
    model = {"id": "test/busy:a", "source": source, "capabilities": ["generate"]}
    await app.call("register", "models.register", model=model)
    await ask_first(app)
    app.request(1, "generate", prompt="hi", model="test/busy:a")
    answer(app, await question(app), approved=True)
    assert (await app.answer(1))["error"]["data"]["kind"] == "overloaded"
    assert len([m for m in app.read() if m.get("method") == "policy.approve"]) == 1
    assert len([entry for entry in app.sink.entries if entry.type == "attempt"]) > 1


async def test_a_call_waits_for_the_app_and_nothing_of_it_is_told_before(app: Any) -> None:
    model = await register(app, *TOOL_CALL)
    await ask_first(app, match={"tools": ["shell"]})
    app.request(1, "generate", prompt="hi", model=model, stream=True)
    asked = await question(app)
    assert asked["params"]["subject"] == {
        "method": "generate", "model": model, "tool": "shell", "arguments": {"cmd": "ls"},
    }  # fmt: skip
    assert told(app, 1) == ["attempt", "text_delta"]
    answer(app, asked, approved=True)
    result = (await app.answer(1))["result"]
    assert [call["arguments"] for call in result["tool_calls"]] == [{"cmd": "ls"}]
    assert result["text"] == "so done"
    assert told(app, 1)[2:5] == ["tool_call_start", "tool_call_delta", "content_block_stop"]
    (logged,) = [entry.data for entry in app.sink.entries if entry.type == "policy"]
    assert logged["decision"] == "approved"


async def test_a_call_that_the_app_refuses_is_withdrawn(app: Any) -> None:
    model = await register(app, *TOOL_CALL)
    await ask_first(app, match={"tools": ["shell"]})
    app.request(1, "generate", prompt="hi", model=model, stream=True)
    answer(app, await question(app), approved=False, reason="not that")
    error = (await app.answer(1))["error"]
    assert error["data"]["reason"] == "it costs; not that"
    assert told(app, 1) == ["attempt", "text_delta", "tool_call_cancel", "error"]


async def test_calls_are_asked_about_one_after_the_other(app: Any) -> None:
    more = [{**event, "index": 1, "id": "d"} for event in TOOL_CALL if "index" in event]
    model = await register(app, *TOOL_CALL, *more)
    await ask_first(app, match={"tools": ["shell"]})
    app.request(1, "generate", prompt="hi", model=model)
    first = await question(app)
    answer(app, first, approved=True)
    second = await app.until(
        lambda m: m.get("method") == "policy.approve" and m["id"] != first["id"]
    )
    answer(app, second, approved=True)
    assert len((await app.answer(1))["result"]["tool_calls"]) == 2


async def test_any_method_may_need_approval_and_its_story_says_so(app: Any) -> None:
    await ask_first(app, match={"methods": ["models.list", "models.register"]})
    for method, params in (("models.list", {}), ("models.register", {"model": MODEL})):
        app.messages.clear()
        app.sink.entries.clear()
        app.request(1, method, **params)
        asked = await question(app)
        assert asked["params"]["subject"]["method"] == method
        answer(app, asked, approved=True)
        assert "result" in await app.answer(1)
        assert decisions(app) == ["approved"]
    app.messages.clear()
    app.request(2, "models.list")
    answer(app, await question(app), approved=False)
    assert (await app.answer(2))["error"]["data"]["kind"] == "policy_denied"


MODEL = {"id": "test/new:a", "source": {"type": "delegated"}, "capabilities": ["generate"]}


async def test_an_app_that_did_not_say_that_it_answers_is_not_asked(app: Any) -> None:
    approver = ApproverHost(app.connection, app.kick, announced=False)
    asked = PolicyApproveParams(
        approval_id="ap_1",
        trace_id="tr_1",
        rule_id="ask",
        subject=PolicySubject(method="generate"),
        deadline_ms=1000,
    )
    result = await asyncio.wait_for(approver.approve(asked), 5)
    assert (result.approved, result.reason) == (
        False, "the client did not announce the capability `approve`",
    )  # fmt: skip
    assert not [m for m in app.read() if m.get("method") == "policy.approve"]
