"""Policies over a session: what is refused, where that is told, and that nothing ran."""

from typing import Any

from car_rpc.eventlog.story import problems


def denial(rule_id: str = "no", **match: Any) -> dict[str, Any]:
    return {"id": rule_id, "action": "deny", "match": match}


async def set_rules(app: Any, *rules: dict[str, Any]) -> None:
    answer = await app.call("rules", "policy.set", rules=list(rules))
    assert "result" in answer, answer
    app.sink.entries.clear()


async def story(app: Any, trace_id: str) -> list[str]:
    app.sink.committed = len(app.sink.entries)
    events = await app.sink.story(trace_id)
    assert not list(problems(events))
    return [event.type for event in events]


async def test_a_model_that_is_refused_is_not_asked_and_the_log_says_why(app: Any) -> None:
    app.services.runner.register()
    await set_rules(app, denial(models=["test/app:*"], hints=["gpt"]) | {"reason": "no cloud"})
    error = await app.failure(1, "generate", prompt="hi", model="test/app:a", stream=True)
    data = error["data"]
    assert (error["code"], data["kind"]) == (1020, "policy_denied")
    assert error["message"] == "policy denied: rule 'no' refuses test/app:a: no cloud"
    assert (data["rule_id"], data["reason"]) == ("no", "no cloud")
    assert data["subject"] == {"method": "generate", "model": "test/app:a"}
    assert [each["event"]["type"] for each in app.events(1)] == ["error"]
    assert not [m for m in app.read() if m.get("method") == "runner.run"]
    assert await story(app, data["trace_id"]) == ["request", "policy", "completion"]
    (logged,) = [entry.data for entry in app.sink.entries if entry.type == "policy"]
    assert (logged["rule_id"], logged["action"], logged["decision"]) == ("no", "deny", "denied")


async def test_a_refused_model_is_no_candidate_and_the_decision_says_so(app: Any) -> None:
    await set_rules(app, denial(models=["test/echo:a"]))
    route = (await app.call(1, "models.route", prompt="hi"))["result"]
    reasons = {each["model_id"]: each.get("why_not") for each in route["candidates"]}
    assert route["model_id"] != "test/echo:a"
    assert "test/echo:a" not in route["fallbacks"]
    assert reasons["test/echo:a"] == "rule 'no' refuses test/echo:a"


async def test_where_every_model_is_refused_the_request_is(app: Any) -> None:
    await set_rules(app, denial())
    for number, (method, params) in enumerate(
        {
            "generate": {"prompt": "hi"},
            "classify": {"text": "x", "labels": ["a", "b"]},
            "models.route": {"prompt": "hi"},
            "tokenize": {"model": "test/echo:a", "text": "x"},
        }.items()
    ):
        error = await app.failure(number, method, **params)
        assert error["data"]["kind"] == "policy_denied", (method, error)


async def test_a_refused_model_is_neither_loaded_nor_downloaded(app: Any) -> None:
    await set_rules(app, denial(models=["test/echo:a"]))
    for number, method in enumerate(("models.load", "models.pull", "tokenize")):
        params = {"text": "x"} if method == "tokenize" else {}
        error = await app.failure(number, method, model="test/echo:a", **params)
        assert error["data"]["kind"] == "policy_denied", (method, error)
        assert error["data"]["subject"] == {"method": method, "model": "test/echo:a"}
    app.sink.entries.clear()
    warm = (await app.call(9, "models.warm_up", models=["test/echo:a", "test/stall:a"]))["result"]
    assert [each["loaded"] for each in warm["results"]] == [False, True]
    assert warm["results"][0]["kind"] == "policy_denied"
    (logged,) = [entry.data for entry in app.sink.entries if entry.type == "policy"]
    assert logged["decision"] == "denied"
    freed = await app.call(10, "models.unload", model="test/echo:a")
    assert "result" in freed, "what may not be used can be taken out of memory"


async def test_any_method_can_be_refused_by_its_name_and_is_logged_then(app: Any) -> None:
    await set_rules(app, denial(methods=["models.*", "routing.*", "eventlog.purge"]))
    for number, (method, params) in enumerate(
        {
            "models.list": {},
            "models.unregister": {"model": "test/echo:a"},
            "eventlog.purge": {"before": "2026-01-01T00:00:00Z"},
            "routing.get_config": {},
        }.items()
    ):
        app.sink.entries.clear()
        error = await app.failure(number, method, **params)
        assert error["data"]["kind"] == "policy_denied"
        assert error["data"]["subject"]["method"] == method
        assert app.sink.committed_types == ["request", "policy", "completion"]
    assert "result" in await app.call(9, "generate", prompt="hi", model="test/echo:a")


async def test_what_was_set_can_be_undone_whatever_it_says(app: Any) -> None:
    await set_rules(app, denial(methods=["*"]))
    assert (await app.failure(1, "models.list"))["data"]["kind"] == "policy_denied"
    listed = (await app.call(2, "policy.list"))["result"]["rules"]
    assert [(rule["id"], rule["origin"]) for rule in listed] == [("no", "set")]
    assert (await app.call(3, "policy.remove", id="no"))["result"] == {"rules": []}
    assert "result" in await app.call(4, "models.list")


async def test_requests_in_order_of_arrival_find_the_runner_though_rules_are_asked(
    app: Any,
) -> None:
    await set_rules(app, denial(methods=["embed"]))
    app.request(1, "runner.register")
    app.request(2, "generate", prompt="hi", model="test/app:a")
    run = await app.method("runner.run")
    app.send({"id": run["id"], "result": {"text": "yes"}})
    assert (await app.answer(2))["result"]["text"] == "yes"


async def test_a_tool_that_is_refused_cannot_even_be_offered(app: Any) -> None:
    await set_rules(app, denial(tools=["shell"]))
    tool = {"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}
    error = await app.failure(1, "generate", prompt="hi", model="test/app:a", tools=[tool])
    assert error["data"]["subject"] == {
        "method": "generate", "model": "test/app:a", "tool": "shell",
    }  # fmt: skip


async def test_what_the_app_s_own_runner_says_is_screened_and_its_run_ended(app: Any) -> None:
    app.services.runner.register()
    await set_rules(
        app,
        {"id": "no-keys", "action": "redact", "patterns": ["sk-[a-z]{6}"]},
        denial("no-rm", tools=["shell"], tool_arguments={"/cmd": "^rm"}),
    )
    app.request(1, "generate", prompt="hi", model="test/app:a", stream=True)
    run = await app.method("runner.run")
    call_id = run["params"]["call_id"]
    for event in (
        {"type": "text_delta", "text": "it is sk-ab"},
        {"type": "text_delta", "text": "cdef, so "},
        {"type": "tool_call_start", "index": 0, "id": "c", "name": "shell"},
        {"type": "tool_call_delta", "index": 0, "id": "c", "arguments_delta": '{"cmd": "rm'},
        {"type": "tool_call_delta", "index": 0, "id": "c", "arguments_delta": ' -rf /"}'},
        {"type": "content_block_stop", "index": 0},
    ):
        app.notify("runner.event", call_id=call_id, event=event)
    cancel = await app.method("$/cancelRequest")
    assert cancel["params"] == {"id": run["id"]}, "nothing more is wanted of the app"
    app.send({"id": run["id"], "error": {"code": -32800, "message": "cancelled"}})
    error = (await app.answer(1))["error"]
    assert (error["data"]["kind"], error["data"]["rule_id"]) == ("policy_denied", "no-rm")
    events = [each["event"] for each in app.events(1)]
    text = "".join(each["text"] for each in events if each["type"] == "text_delta")
    assert text == "it is [redacted], so "
    assert [each["type"] for each in events[-2:]] == ["tool_call_cancel", "error"]
    assert "sk-ab" not in str(events)
    assert "rm -rf" not in str(events)
