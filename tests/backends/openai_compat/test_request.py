from typing import Any

import pytest

from car_rpc.backends.openai_compat.request import body_of
from car_rpc.errors import CarError
from car_rpc.testing import scripted_call
from car_rpc.wire.models import ModelSchema, OpenAICompatSource

PNG = {"type": "base64", "media_type": "image/png", "data": "iVBO"}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
ALWAYS = {"model": "gpt", "stream": True, "stream_options": {"include_usage": True}}


def make_model(**members: Any) -> ModelSchema:
    source = OpenAICompatSource(endpoint="http://127.0.0.1:1", model="gpt")
    return ModelSchema(id="a/b:c", source=source, capabilities=["generate"], **members)


def body(model: ModelSchema | None = None, **request: Any) -> dict[str, Any]:
    model = model or make_model()
    return body_of(model, "gpt", scripted_call(model, **request).request)


def sent(*messages: dict[str, Any], **request: Any) -> list[dict[str, Any]]:
    turns = body(messages=list(messages), prompt="go", **request)["messages"]
    assert turns.pop() == {"role": "user", "content": "go"}
    return turns


def refused(**request: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        body(**request)
    return caught.value


def test_what_the_client_did_not_set_is_absent() -> None:
    assert body() == {**ALWAYS, "messages": [{"role": "user", "content": "one two three"}]}


def test_every_setting_goes_out_under_the_name_that_servers_know() -> None:
    params = {
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "max_tokens": 9, "stop": ["x"],
        "seed": "18446744073709551615", "thinking": "off", "presence_penalty": 1,
        "frequency_penalty": -1, "repeat_penalty": 1.1, "logit_bias": {"7": -100}, "logprobs": 2,
        "reasoning_effort": "low", "ignore_eos": True, "parallel_tool_calls": False,
        "tool_choice": "auto", "budget_tokens": 5, "workload": "batch",
    }  # fmt: skip
    request = body(params=params, tools=[TOOL])
    assert {name: request[name] for name in request if name not in (*ALWAYS, "messages")} == {
        "temperature": 0, "top_p": 0.5, "top_k": 3, "min_p": 0.1, "max_tokens": 9, "stop": ["x"],
        "seed": 18446744073709551615, "chat_template_kwargs": {"enable_thinking": False},
        "presence_penalty": 1, "frequency_penalty": -1, "repeat_penalty": 1.1,
        "logit_bias": {"7": -100}, "logprobs": True, "top_logprobs": 2, "reasoning_effort": "low",
        "ignore_eos": True, "parallel_tool_calls": False, "tool_choice": "auto", "tools": [TOOL],
    }  # fmt: skip


def test_settings_that_the_model_does_not_support_are_left_out() -> None:
    reasoning = make_model(supported_params=["max_completion_tokens", "reasoning_effort"])
    request = body(reasoning, params={"temperature": 0, "max_tokens": 5, "reasoning_effort": "low"})
    assert "temperature" not in request
    assert (request["max_completion_tokens"], request["reasoning_effort"]) == (5, "low")
    assert body(params={"temperature": 0})["temperature"] == 0


def test_no_more_tokens_are_asked_for_than_the_model_can_give() -> None:
    assert body(make_model(max_output_tokens=5), params={"max_tokens": 9})["max_tokens"] == 5
    assert body(make_model(max_output_tokens=5), params={"max_tokens": 2})["max_tokens"] == 2
    assert "max_tokens" not in body(make_model(max_output_tokens=5))


@pytest.mark.parametrize(
    ("choice", "goes_out"),
    [
        ("none", "none"),
        ("required", "required"),
        ("f", {"type": "function", "function": {"name": "f"}}),
        ({"type": "function", "function": {"name": "f"}},) * 2,
    ],
)
def test_a_tool_is_chosen_in_openais_form(choice: Any, goes_out: Any) -> None:
    assert body(tools=[TOOL], params={"tool_choice": choice})["tool_choice"] == goes_out


def test_a_call_of_no_tool_cannot_be_demanded() -> None:
    assert refused(params={"tool_choice": "required"}).data["path"] == "$.params.tool_choice"
    assert "tool_choice" not in body(params={"tool_choice": "none"})


def test_a_form_of_the_answer_is_asked_for_in_openais_form() -> None:
    schema = {"type": "object"}
    wanted = {"type": "json_schema", "schema": schema, "strict": True, "name": "n"}
    assert body(response_format=wanted)["response_format"] == {
        "type": "json_schema",
        "json_schema": {"name": "n", "schema": schema, "strict": True},
    }
    bare = body(response_format={"type": "json_schema", "schema": schema})["response_format"]
    assert bare["json_schema"] == {"name": "answer", "schema": schema}
    asked = body(response_format={"type": "json_object"})
    assert asked["response_format"] == {"type": "json_object"}


@pytest.mark.parametrize(
    "request_members",
    [
        {"response_format": {"type": "regex", "pattern": "a"}},
        {"response_format": {"type": "grammar", "syntax": "gbnf", "grammar": "root ::= [a]"}},
        {"overflow": "truncate"},
    ],
)
def test_what_the_api_cannot_do_is_refused(request_members: dict[str, Any]) -> None:
    assert refused(**request_members).kind == "unsupported_mode"


@pytest.mark.parametrize(
    "request_members",
    [
        {"response_format": {"type": "json_object"}},
        {"tools": [TOOL], "params": {"tool_choice": "required"}},
    ],
)
def test_what_must_be_enforced_is_refused_where_the_model_is_known_not_to(
    request_members: dict[str, Any],
) -> None:
    with pytest.raises(CarError, match="supported_params"):
        body(make_model(supported_params=["temperature"]), **request_members)
    able = make_model(supported_params=["structured_outputs", "tool_choice"])
    assert body(able, **request_members)


def test_text_blocks_become_one_string() -> None:
    blocks = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    assert sent({"role": "user", "content": blocks}) == [{"role": "user", "content": "ab"}]
    assert sent({"role": "system", "content": blocks}) == [{"role": "system", "content": "ab"}]


def test_media_of_a_user_turn_keep_their_place() -> None:
    blocks = [
        {"type": "text", "text": "a"},
        {"type": "image", "source": PNG},
        {"type": "image", "source": {"type": "url", "url": "https://x/y.png"}},
        {"type": "audio", "source": {"type": "base64", "media_type": "audio/wav", "data": "UklG"}},
        {"type": "document", "title": "t.pdf",
         "source": {"type": "base64", "media_type": "application/pdf", "data": "JVBE"}},
    ]  # fmt: skip
    assert sent({"role": "user", "content": blocks})[0]["content"] == [
        {"type": "text", "text": "a"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}},
        {"type": "image_url", "image_url": {"url": "https://x/y.png"}},
        {"type": "input_audio", "input_audio": {"data": "UklG", "format": "wav"}},
        {"type": "file",
         "file": {"filename": "t.pdf", "file_data": "data:application/pdf;base64,JVBE"}},
    ]  # fmt: skip


def test_calls_and_their_results_go_out_in_the_order_that_servers_demand() -> None:
    call = {"id": "c1", "name": "f", "arguments": {"a": "é"}}
    use = {"type": "tool_use", "id": "c2", "name": "g", "input": {}}
    thought = {"type": "thinking", "thinking": "hm"}
    assistant = {
        "role": "assistant",
        "content": [thought, {"type": "text", "text": "ok"}, use],
        "tool_calls": [call],
        "reasoning": "hm",
    }
    results = [
        {"type": "text", "text": "and now?"},
        {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "2"}]},
    ]
    tool = {"role": "tool", "tool_call_id": "c1", "content": "1"}
    assert sent(assistant, tool, {"role": "user", "content": results}) == [
        {
            "role": "assistant",
            "content": "ok",
            "tool_calls": [
                {"id": "c1", "type": "function",
                 "function": {"name": "f", "arguments": '{"a":"é"}'}},
                {"id": "c2", "type": "function", "function": {"name": "g", "arguments": "{}"}},
            ],
        },
        {"role": "tool", "tool_call_id": "c1", "content": "1"},
        {"role": "tool", "tool_call_id": "c2", "content": "2"},
        {"role": "user", "content": "and now?"},
    ]  # fmt: skip


def test_a_turn_that_only_calls_has_empty_content() -> None:
    use = {"type": "tool_use", "id": "c", "name": "g", "input": {}}
    (turn,) = sent({"role": "assistant", "content": [use]})
    assert turn["content"] == ""


def test_a_turn_that_only_brings_results_is_nothing_else() -> None:
    result = {"type": "tool_result", "tool_use_id": "c", "content": "1"}
    answer = [{"role": "tool", "tool_call_id": "c", "content": "1"}]
    for role in ("user", "tool", "assistant"):
        assert sent({"role": role, "content": [result]}) == answer


def test_the_context_is_one_system_turn_with_that_of_the_client() -> None:
    asked = {"role": "user", "content": "hi"}
    assert sent(asked, context="c") == [{"role": "system", "content": "c"}, asked]
    mine = {"role": "system", "content": "s"}
    assert sent(mine, asked, context="c") == [{"role": "system", "content": "s\n\nc"}, asked]


def test_images_belong_to_the_last_user_turn() -> None:
    part = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBO"}}
    image = {"type": "image", "source": PNG}
    (turn,) = body(prompt="look", images=[image])["messages"]
    assert turn["content"] == [{"type": "text", "text": "look"}, part]
    turns = [{"role": "user", "content": [image]}, {"role": "assistant", "content": "ok"}]
    request = scripted_call(make_model(), messages=turns, images=[image], prompt="x").request
    assert body_of(make_model(), "gpt", request)["messages"][-1]["content"][-1] == part


@pytest.mark.parametrize(
    ("role", "block", "path"),
    [
        ("user", {"type": "video", "source": PNG}, "$.messages[0].content[1]"),
        ("user", {"type": "image", "source": {"type": "path", "path": "/x"}},
         "$.messages[0].content[1]"),
        ("user", {"type": "audio", "source": {"type": "url", "url": "http://x"}},
         "$.messages[0].content[1]"),
        ("user", {"type": "audio",
                  "source": {"type": "base64", "media_type": "audio/flac", "data": ""}},
         "$.messages[0].content[1].source"),
        ("user", {"type": "document", "source": {"type": "url", "url": "http://x"}},
         "$.messages[0].content[1]"),
        ("user", {"type": "thinking", "thinking": "x"}, "$.messages[0].content[1]"),
        ("user", {"type": "tool_use", "id": "c", "name": "f", "input": {}},
         "$.messages[0].content[1]"),
        ("assistant", {"type": "image", "source": PNG}, "$.messages[0].content[1]"),
        ("system", {"type": "image", "source": PNG}, "$.messages[0].content[1]"),
        ("tool", {"type": "image", "source": PNG}, "$.messages[0].content[1]"),
        ("tool", {"type": "tool_result", "tool_use_id": "c", "content": "x"},
         "$.messages[0].content[0]"),
        ("user", {"type": "tool_result", "tool_use_id": "c",
                  "content": [{"type": "text", "text": ""}, {"type": "image", "source": PNG}]},
         "$.messages[0].content[1].content[1]"),
    ],
)  # fmt: skip
def test_content_that_has_no_place_is_refused_by_its_path(
    role: str, block: dict[str, Any], path: str
) -> None:
    content = [{"type": "text", "text": "a"}, block]
    named = {"tool_call_id": "c"} if role == "tool" else {}
    failure = refused(messages=[{"role": role, "content": content, **named}])
    assert (failure.kind, failure.data["path"]) == ("invalid_request", path)
    assert path in failure.message


def test_a_tool_turn_must_say_what_it_answers() -> None:
    failure = refused(messages=[{"role": "tool", "content": "x"}])
    assert failure.data["path"] == "$.messages[0].tool_call_id"


def test_images_without_a_user_turn_are_refused() -> None:
    model = make_model()
    image = {"type": "image", "source": PNG}
    turns = [{"role": "system", "content": "x"}]
    request = scripted_call(model, messages=turns, images=[image]).request
    with pytest.raises(CarError) as caught:
        body_of(model, "gpt", type(request)(messages=request.messages, images=request.images))
    assert caught.value.data["path"] == "$.images"
