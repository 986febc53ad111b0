from typing import Any

import pytest

from car_rpc.backends.delegated import runner_error
from car_rpc.errors import KINDS, CarError
from car_rpc.testing import scripted_call
from car_rpc.wire.content import ToolCall
from car_rpc.wire.events import Done, ErrorEvent, Heartbeat, Stop, TextDelta, UsageEvent
from car_rpc.wire.runner import RunnerResult


async def played(backend: Any, model: Any, **request: Any) -> list[Any]:
    return [event async for event in backend.generate(scripted_call(model, **request))]


async def test_the_app_is_asked_with_the_clients_own_json(
    delegated: Any, channel: Any, app_model: Any
) -> None:
    await played(delegated, app_model, unknown=1)
    (run,) = channel.runs
    assert (run.call_id, run.parent_id, run.hint, run.model) == ("call_1", 1, "gpt", "app/gpt:1")
    assert bytes(run.request) == b'{"prompt":"one two three","unknown":1}'
    assert (run.attempt, run.deadline_ms) == (1, 300_000)
    assert channel.closed == 1


async def test_a_time_limit_of_the_request_is_that_of_the_run(
    delegated: Any, channel: Any, app_model: Any
) -> None:
    call = scripted_call(app_model)._replace(deadline_ms=5)
    assert [event async for event in delegated.generate(call)]
    assert channel.runs[0].deadline_ms == 5


async def test_what_only_the_end_tells_comes_last_and_the_apps_own_done_wins(
    delegated: Any, channel: Any, app_model: Any
) -> None:
    call = ToolCall(id="c", name="f", arguments={})
    channel.items = [
        Done(text="done"),
        Heartbeat(),
        TextDelta(text="x"),
        RunnerResult(
            text="reply",
            tool_calls=[call],
            usage=UsageEvent(prompt_tokens=1),
            stop_reason="max_tokens",
        ),
    ]
    first, *rest = await played(delegated, app_model)
    assert first == TextDelta(text="x")
    words = [event for event in rest if isinstance(event, Done)]
    assert words == [Done(text="done"), Done(text="reply", tool_calls=[call])]
    others = [event for event in rest if not isinstance(event, Done)]
    assert others == [UsageEvent(prompt_tokens=1), Stop(reason="max_tokens")]


async def test_a_stop_among_the_events_wins_over_that_of_the_reply(
    delegated: Any, channel: Any, app_model: Any
) -> None:
    channel.items = [Stop(reason="refusal"), RunnerResult(stop_reason="end_turn")]
    assert await played(delegated, app_model) == [Stop(reason="refusal"), Done()]


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (ErrorEvent(kind="overloaded", message="full"), "overloaded"),
        (ErrorEvent(kind="made up", message="full"), "runner_failed"),
        (ErrorEvent(message="full"), "inference_failed"),
    ],
)
async def test_an_error_event_ends_the_run(
    delegated: Any, channel: Any, app_model: Any, event: ErrorEvent, kind: str
) -> None:
    channel.items = [TextDelta(text="x"), event, TextDelta(text="never")]
    with pytest.raises(CarError, match="full") as caught:
        await played(delegated, app_model)
    assert caught.value.kind == kind
    assert channel.closed == 1


def test_a_runner_fails_with_the_kinds_of_models_and_not_with_those_of_the_protocol() -> None:
    kinds = {kind: runner_error(kind, "m").kind for kind in KINDS}
    taken_over = {kind for kind, told in kinds.items() if kind == told}
    assert {*KINDS} - taken_over == {
        "parse_error",
        "malformed_message",
        "duplicate_id",
        "method_not_found",
        "invalid_params",
        "internal",
        "not_initialized",
    }
    assert {kinds[kind] for kind in {*KINDS} - taken_over} == {"runner_failed"}


async def test_a_bare_reply_is_an_answer(delegated: Any, channel: Any, app_model: Any) -> None:
    channel.items = [RunnerResult()]
    assert await played(delegated, app_model) == [Done()]


async def test_without_a_runner_the_model_is_not_available_and_not_run(
    delegated: Any, channel: Any, app_model: Any
) -> None:
    channel.registered = False
    assert delegated.availability(app_model)[:2] == (False, True)
    with pytest.raises(CarError) as caught:
        await played(delegated, app_model)
    assert (caught.value.kind, caught.value.data["model"]) == ("no_runner", "app/gpt:1")
    assert channel.runs == []


async def test_a_failed_run_fails_the_attempt(delegated: Any, channel: Any, app_model: Any) -> None:
    channel.items = [TextDelta(text="x"), CarError("rate_limited", "later")]
    with pytest.raises(CarError, match="later"):
        await played(delegated, app_model)
    assert channel.closed == 1
