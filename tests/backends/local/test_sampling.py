from typing import Any

import msgspec
import pytest

from car_rpc.backends.local.sampling import to_worker
from car_rpc.errors import CarError
from car_rpc.testing import scripted_call, scripted_model
from car_rpc.wire.content import Message, TextBlock
from car_rpc.wire.worker import Generate, SamplingParams, ToWorker

MODEL = scripted_model("a/b:c", [])


def frame(backend: str = "llama_cpp", **request: Any) -> Generate:
    return to_worker(MODEL, scripted_call(MODEL, **request).request, backend, 5)


def refusal(backend: str = "llama_cpp", **request: Any) -> CarError:
    with pytest.raises(CarError) as caught:
        frame(backend, **request)
    return caught.value


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, **fields}}


def test_what_the_client_did_not_set_keeps_the_local_default() -> None:
    made = frame()
    assert made.params == SamplingParams()
    assert (made.params.temperature, made.params.top_p, made.params.thinking) == (0.7, 0.95, "auto")
    assert (made.params.max_tokens, made.params.seed, made.tools) == (None, None, [])


def test_what_the_client_set_goes_on() -> None:
    params = {
        "temperature": 0,
        "top_k": 3,
        "min_p": 0.5,
        "max_tokens": 7,
        "stop": ["\n"],
        "thinking": "off",
        "budget_tokens": 9,
        "presence_penalty": 1,
        "ignore_eos": True,
    }
    made = frame(params={**params, "workload": "batch", "reasoning_effort": "low"}).params
    assert {name: getattr(made, name) for name in params} == params


@pytest.mark.parametrize("wanted", [True, False])
def test_whether_earlier_prompts_may_be_used_goes_on(wanted: bool) -> None:
    assert frame(prefix_cache=wanted).prefix_cache is wanted


@pytest.mark.parametrize(
    ("given", "used"), [(5, 5), ("12", 12), (-1, 2**64 - 1), ("-1", 2**64 - 1), (2**64, 0)]
)
def test_a_seed_is_taken_as_64_bits(given: Any, used: int) -> None:
    assert frame(params={"seed": given}).params.seed == used


def test_token_biases_are_by_token_id() -> None:
    assert frame(params={"logit_bias": {"5": 1.5, "0": -1}}).params.logit_bias == {5: 1.5, 0: -1.0}


@pytest.mark.parametrize("key", ["hello", "", "1.5", "-1", "9" * 30])
def test_other_keys_of_token_biases_are_refused(key: str) -> None:
    error = refusal(params={"logit_bias": {key: 1}})
    assert (error.kind, error.data["path"]) == ("invalid_params", "$.params.logit_bias")


def test_the_conversation_is_context_then_messages_then_prompt() -> None:
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    made = frame(messages=turns, context="be kind", prompt="c")
    assert [(m.role, m.content) for m in made.messages] == [
        ("system", "be kind"),
        ("user", "a"),
        ("assistant", "b"),
        ("user", "c"),
    ]


@pytest.mark.parametrize(
    ("content", "joined"),
    [
        ("first", "first\n\nbe kind"),
        (
            [{"type": "text", "text": "first"}],
            [TextBlock(text="first"), TextBlock(text="\n\nbe kind")],
        ),
    ],
)
def test_there_is_never_a_second_system_turn(content: Any, joined: Any) -> None:
    made = frame(messages=[{"role": "system", "content": content}], context="be kind")
    assert made.messages[0] == Message(role="system", content=joined)
    assert [m.role for m in made.messages] == ["system", "user"]


def test_tools_go_on_unless_none_is_to_be_used() -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}
    assert frame(tools=[tool]).tools == [tool]
    assert frame(tools=[tool], params={"tool_choice": "auto"}).tools == [tool]
    assert frame(tools=[tool], params={"tool_choice": "none"}).tools == []


TOOLS = [
    {"type": "function", "function": {"name": name, "parameters": {"type": "object"}}}
    for name in ("f", "g")
]


@pytest.mark.parametrize(
    ("choice", "names"),
    [
        ("auto", []),
        ("required", ["f", "g"]),
        ("any", ["f", "g"]),
        ("g", ["g"]),
        ({"type": "function", "function": {"name": "g"}}, ["g"]),
        ({"type": "function", "name": "g"}, ["g"]),
        ({"function": "g"}, ["g"]),
    ],
)
def test_a_choice_of_tools_becomes_the_tools_that_must_be_called(
    choice: Any, names: list[str]
) -> None:
    assert frame(tools=TOOLS, params={"tool_choice": choice}).must_call == names
    if names:
        assert refusal("fake", tools=TOOLS, params={"tool_choice": choice}).data["mode"] == (
            "tool-choice"
        )


@pytest.mark.parametrize("choice", ["h", {"type": "function"}, {"function": []}])
def test_a_choice_of_no_tool_is_refused_by_its_place(choice: Any) -> None:
    for tools in (TOOLS, []):
        error = refusal(tools=tools, params={"tool_choice": choice})
        assert (error.kind, error.data["path"]) == ("invalid_request", "$.params.tool_choice")


def test_several_calls_at_once_may_be_forbidden() -> None:
    assert frame(tools=TOOLS).parallel_tool_calls
    assert not frame(tools=TOOLS, params={"parallel_tool_calls": False}).parallel_tool_calls


IMAGE = {"type": "image", "source": {"type": "url", "url": "http://x"}}
NESTED = {"type": "tool_result", "tool_use_id": "t", "content": [IMAGE]}


@pytest.mark.parametrize(
    ("request_fields", "mode"),
    [
        ({"images": [IMAGE], "prompt": "x"}, "image-content-block"),
        ({"overflow": "truncate"}, "overflow-truncate"),
        ({"messages": [{"role": "user", "content": [IMAGE]}]}, "image-content-block"),
        ({"messages": [{"role": "tool", "content": [NESTED]}]}, "image-content-block"),
    ],
)
def test_what_cannot_be_enforced_is_refused_by_its_name(
    request_fields: dict[str, Any], mode: str
) -> None:
    error = refusal(**request_fields)
    assert error.kind == "unsupported_mode"
    assert error.message.startswith(f"mode {mode} not implemented on backend llama_cpp: ")


def test_only_engines_that_choose_their_tokens_tell_how_likely_they_are() -> None:
    for engine in ("llama_cpp", "mlx"):
        assert frame(engine, params={"logprobs": 3}).params.logprobs == 3
    error = refusal("fake", params={"logprobs": 3})
    assert error.message.startswith("mode logprobs not implemented on backend fake: ")


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ({"type": "json_object"}, "structured-output-json-object"),
        ({"type": "regex", "pattern": "a"}, "structured-output-regex"),
    ],
)
def test_a_form_goes_on_to_the_engines_that_enforce_it(form: dict[str, Any], mode: str) -> None:
    assert msgspec.to_builtins(frame(response_format=form).response_format) == form
    error = refusal("fake", response_format=form)
    assert error.message.startswith(f"mode {mode} not implemented on backend fake: ")


def test_the_place_of_content_that_is_refused_is_named() -> None:
    text = {"type": "text", "text": "x"}
    turns = [{"role": "user", "content": "a"}, {"role": "user", "content": [text, IMAGE]}]
    assert refusal(messages=turns).data["path"] == "$.messages[1].content[1]"


def test_switched_off_is_as_good_as_absent() -> None:
    assert frame(params={"logprobs": 0}, images=[], overflow="error").params == SamplingParams()


def test_whatever_is_accepted_fits_into_a_frame() -> None:
    limit = 2**53 - 1
    made = frame(
        params={"max_tokens": limit, "top_k": limit, "seed": 2**70, "budget_tokens": limit}
    )
    packed = msgspec.msgpack.encode(made)
    assert msgspec.msgpack.decode(packed, type=ToWorker) == made


@pytest.mark.parametrize("choice", ["required", "auto", "f"])
@pytest.mark.parametrize("type_", ["array", "string", ["array", "null"]])
def test_a_tool_takes_an_object(choice: str, type_: Any) -> None:
    tools = [tool("right"), tool("f", parameters={"type": type_})]
    error = refusal(tools=tools, params={"tool_choice": choice})
    path = "$.tools[1].function.parameters"
    assert (error.kind, error.data["path"]) == ("invalid_request", path)
    assert "the arguments of f are an object" in error.message
    assert not frame(tools=tools, params={"tool_choice": "none"}).tools


@pytest.mark.parametrize("parameters", [{}, {"type": "object"}, {"type": ["object", "null"]}])
def test_a_tool_may_declare_little(parameters: dict[str, Any]) -> None:
    tools = [tool("f", parameters=parameters), tool("g")]
    assert frame(tools=tools, params={"tool_choice": "required"}).must_call == ["f", "g"]


def test_a_tool_has_a_name() -> None:
    error = refusal(tools=[tool("")])
    path = "$.tools[0].function.name"
    assert (error.kind, error.data["path"]) == ("invalid_request", path)
    assert error.detail == f"a tool needs a name - at `{path}`"
