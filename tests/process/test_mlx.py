"""MLX models behind the wire, on real processes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.process.conftest import (
    ROOT,
    Core,
    StartCore,
    assert_gone,
    check_stream,
    text_of,
)
from tests.process.continuations import check_continuations

pytest.importorskip("mlx_lm")

pytestmark = [pytest.mark.process, pytest.mark.mlx, pytest.mark.timeout(180)]

FOLDER = ROOT / "car_rpc" / "data" / "demo" / "mlx"
CHAT = "demo/tiny-chat:mlx"

#: Runs until it is stopped, as far as a test can tell.
ENDLESS = {"ignore_eos": True, "temperature": 1.0}

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Get the weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
        },
    },
}


@pytest.fixture(scope="module")
def lasting(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("mlx") / "state")
    core.initialize()
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


@pytest.fixture
def core(lasting: Core) -> Iterator[Core]:
    """One process for all tests; each ends with a ping."""
    yield lasting
    lasting.ping()


def is_delta(message: dict[str, Any], stream: Any) -> bool:
    params = message.get("params", {})
    return params.get("request_id") == stream and params["event"]["type"].endswith("_delta")


def start_endless(core: Core, **fields: Any) -> Any:
    """A stream that is in the middle of its decode."""
    stream = core.generate(CHAT, params=ENDLESS, **fields)
    core.wait_for(lambda m: is_delta(m, stream))
    return stream


def test_the_engine_and_its_demo_model_are_there(core: Core) -> None:
    (model,) = [m for m in core.call("models.list")["models"] if m["id"] == CHAT]
    assert (model["available"], model["weights_ready"]) == (True, True)


def test_a_stream_tells_what_its_result_tells(core: Core) -> None:
    stream = core.generate(CHAT, params={"temperature": 0, "thinking": "on"})
    result = core.response(stream)["result"]
    events = core.stream(stream)
    check_stream(events)
    assert text_of(events) == result["text"] == "Hello! How can I help you?"
    assert result["reasoning"] == "The user makes small talk."
    assert (result["model_used"], result["stop_reason"]) == (CHAT, "end_turn")
    usage = result["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert 0 < usage["thinking_tokens"] < usage["completion_tokens"]


def test_a_tool_is_called(core: Core) -> None:
    params = {"model": CHAT, "prompt": "What is the weather in Paris?", "tools": [WEATHER]}
    result = core.call("generate", {**params, "params": {"temperature": 0, "thinking": "off"}})
    (call,) = result["tool_calls"]
    assert (call["name"], call["arguments"]) == ("get_weather", {"city": "Paris"})
    assert result["stop_reason"] == "tool_use"


def test_requests_at_once_are_all_answered(core: Core) -> None:
    streams = [
        core.generate(CHAT, f"Number {index}", params={"max_tokens": 16, "ignore_eos": True})
        for index in range(6)
    ]
    for stream in streams:
        assert core.response(stream)["result"]["usage"]["completion_tokens"] == 16
        check_stream(core.stream(stream))


def test_a_prompt_is_read_once_unless_that_is_not_wanted(core: Core) -> None:
    params = {"temperature": 0, "max_tokens": 3}
    request = {"model": CHAT, "prompt": "What is the capital of Austria?", "params": params}
    core.call("generate", request)
    usage = core.call("generate", request)["usage"]
    assert usage["cache_read_tokens"] == usage["prompt_tokens"] - 1
    alone = core.call("generate", {**request, "prefix_cache": False})["usage"]
    assert not alone.get("cache_read_tokens")


def test_a_prompt_that_is_too_long_is_refused_with_the_counts(core: Core) -> None:
    error = core.fail("generate", {"model": CHAT, "prompt": "one two three " * 3000})
    assert error["data"]["kind"] == "context_overflow"
    assert error["data"]["prompt_tokens"] > error["data"]["context_length"] == 1024


def test_how_likely_the_tokens_are_is_told_where_it_is_asked(core: Core) -> None:
    params = {"temperature": 0, "max_tokens": 5, "thinking": "off", "logprobs": 2}
    result = core.call("generate", {"model": CHAT, "prompt": "Hello!", "params": params})
    told = result["logprobs"]
    assert bytes(byte for each in told for byte in each["bytes"]).decode() == result["text"]
    assert all(0 >= each["logprob"] > each["top_logprobs"][1]["logprob"] for each in told)


@pytest.mark.parametrize("continuations", [1, 3])
def test_each_continuation_adds_as_many_tokens_as_an_answer_may_have(
    core: Core, continuations: int
) -> None:
    check_continuations(core, CHAT, continuations)


def test_documents_are_ordered_and_texts_classified(core: Core) -> None:
    documents = ["The lamp costs 20 dollars.", "Paris is the capital of France."]
    asked = {"query": "What is the capital of France?", "documents": documents}
    ranked = core.call("rerank", {"model": "demo/tiny-rerank:mlx", **asked})["ranked"]
    assert [each["index"] for each in ranked] == [1, 0]
    assert ranked[0]["score"] > 0.9 > ranked[1]["score"]
    labels = ["negative", "positive"]
    params = {"model": CHAT, "text": "I love this film.", "labels": labels, "method": "likelihood"}
    result = core.call("classify", params)
    assert result["method"] == "likelihood"
    assert result["results"][0]["label"] == "positive"


@pytest.mark.parametrize("text", ["", "Grüße \N{GRINNING FACE}\n\ttab", "日本語"])
def test_tokens_are_those_of_the_same_model_in_llama_cpp(core: Core, text: str) -> None:
    tokens = core.call("tokenize", {"model": CHAT, "text": text})["tokens"]
    assert core.call("detokenize", {"model": CHAT, "tokens": tokens})["text"] == text
    pytest.importorskip("llama_cpp")
    twin = core.call("tokenize", {"model": "demo/tiny-chat:gguf", "text": text})
    assert twin["tokens"] == tokens


def test_texts_are_embedded(core: Core) -> None:
    texts = ["A cat sleeps.", "The stock market fell.", "A cat sleeps."]
    result = core.call("embed", {"model": "demo/tiny-embed:mlx", "texts": texts})
    a, b, c = result["embeddings"]
    assert sum(x * x for x in a) == pytest.approx(1.0, abs=1e-4)
    assert a == pytest.approx(c, abs=1e-4)
    assert a != pytest.approx(b, abs=1e-2)


def test_its_context_can_be_set(core: Core) -> None:
    source = {"type": "mlx", "path": str(FOLDER), "context_length": 96}
    short = core.register("t/tiny:short", source)
    params = {"ignore_eos": True, "max_tokens": 10_000, "thinking": "off"}
    result = core.call("generate", {"model": short, "prompt": "Hello!", "params": params})
    assert result["usage"]["total_tokens"] == result["usage"]["context_window"] == 96


def test_a_cancel_amid_a_long_prompt_is_confirmed_and_hurts_nobody(core: Core) -> None:
    other = start_endless(core)
    long = core.generate(CHAT, "word " * 500, params=ENDLESS)
    core.first_event(long, "attempt")
    core.cancel(long)
    assert core.response(long)["error"]["code"] == -32800
    core.cancel(other)
    error = core.response(other)["error"]
    assert error["data"]["partial"]["text"] == text_of(core.stream(other))
    params = {"temperature": 0, "thinking": "off"}
    result = core.call("generate", {"model": CHAT, "prompt": "Hello!", "params": params})
    assert result["text"] == "Hello! How can I help you?"


def test_kill_9_of_the_worker_amid_answers_is_not_seen_in_their_text(
    start_core: StartCore, proof_count: Callable[[int, int], int]
) -> None:
    core = start_core("--drain-ms", "0")
    core.initialize()
    prompts = ["Tell me a short story.", "Tell me a story about a bird."]
    params = {"temperature": 0, "max_tokens": 60}
    whole = [
        core.call("generate", {"model": CHAT, "prompt": prompt, "params": params})
        for prompt in prompts
    ]
    recoveries = 0
    for _ in range(proof_count(1, 20)):
        streams = [core.generate(CHAT, prompt, params=params) for prompt in prompts]
        core.wait_for(lambda m, s=streams[1]: is_delta(m, s))
        worker = core.worker()
        worker.kill()
        for stream, expected in zip(streams, whole, strict=True):
            result = core.response(stream)["result"]
            assert result["text"] == expected["text"]
            for count in ("prompt_tokens", "completion_tokens"):
                assert result["usage"][count] == expected["usage"][count]
            kinds = [m["event"]["type"] for m in core.stream(stream)]
            assert kinds.count("recovery") == result.get("recoveries", 0)
            recoveries += kinds.count("recovery")
            check_stream(core.stream(stream), "done")
        assert_gone([worker])
    assert recoveries  # one that had ended when the kill came is none
    crashes = core.call("eventlog.query", {"types": ["worker_crash"]})["events"]
    assert json.dumps(crashes).count("SIGKILL") == proof_count(1, 20)
