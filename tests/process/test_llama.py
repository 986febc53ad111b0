"""The main job on real processes: llama.cpp behind the wire.

Nothing here depends on what the model says, only on the form in which it is said.
"""

import array
import base64
import itertools
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import (
    ROOT,
    Adopted,
    Core,
    Gate,
    StartCore,
    assert_gone,
    check_stream,
    request,
    text_of,
    wait_until,
)
from tests.process.continuations import check_continuations

pytestmark = [pytest.mark.process, pytest.mark.llama, pytest.mark.timeout(180)]

DEMO = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"
CHAT = "t/tiny:chat"
EMBED = "t/tiny:embed"

#: Runs until it is stopped, as far as a test can tell.
ENDLESS = {"ignore_eos": True, "temperature": 1.0}


@pytest.fixture(scope="session")
def model_path() -> Path:
    assert DEMO.is_file()
    return DEMO


@pytest.fixture(scope="module")
def lasting(model_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("llama") / "state")
    core.initialize()
    core.register(CHAT, local(model_path))
    core.register(EMBED, local(model_path, pooling="mean"), "embed")
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


@pytest.fixture
def core(lasting: Core) -> Iterator[Core]:
    """One process for all tests that do no harm; each ends with a ping."""
    yield lasting
    lasting.ping()


@pytest.fixture
def own_core(start_core: StartCore, model_path: Path) -> Core:
    """A process for a test that does harm."""
    return ready(start_core("--drain-ms", "0"), model_path)


def ready(core: Core, model_path: Path) -> Core:
    core.initialize()
    core.register(CHAT, local(model_path))
    return core


def local(path: Path, **options: object) -> dict[str, Any]:
    return {"type": "local", "path": str(path), **options}


def generate(core: Core, prompt: str = "Hello!", model: str = CHAT, **params: Any) -> Any:
    return core.call("generate", {"model": model, "prompt": prompt, "params": params})


def start_endless(core: Core, **fields: Any) -> Any:
    """A stream that is in the middle of its decode."""
    stream = core.generate(CHAT, params=ENDLESS, **fields)
    core.wait_for(lambda m: is_delta(m, stream))
    return stream


def is_delta(message: dict[str, Any], stream: Any) -> bool:
    params = message.get("params", {})
    return params.get("request_id") == stream and params["event"]["type"].endswith("_delta")


# Generating


@pytest.mark.parametrize("thinking", ["auto", "on", "off"])
def test_a_stream_tells_what_its_result_tells(core: Core, thinking: str) -> None:
    stream = core.generate(CHAT, params={"max_tokens": 40, "thinking": thinking})
    result = core.response(stream)["result"]
    events = core.stream(stream)
    check_stream(events)
    assert text_of(events) == result["text"]
    reasoning = [e["event"] for e in events if e["event"]["type"] == "reasoning_delta"]
    assert "".join(e["text"] for e in reasoning) == result.get("reasoning", "")
    assert result["model_used"] == CHAT
    assert result["stop_reason"] in {"end_turn", "max_tokens", "tool_use"}
    usage = result["usage"]
    assert usage["prompt_tokens"] + usage["completion_tokens"] == usage["total_tokens"]
    assert 0 < usage["prompt_tokens"] < usage["context_window"]
    assert 0 < result["time_to_first_token_ms"] <= result["latency_ms"]
    trace = core.call("eventlog.query", {"trace_id": result["trace_id"]})["events"]
    assert (trace[0]["type"], trace[-1]["type"]) == ("request", "completion")


def test_a_system_text_and_turns_are_taken(core: Core) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "What is 2 + 2?"},
    ]
    params = {"model": CHAT, "messages": messages, "params": {"max_tokens": 4}}
    assert core.call("generate", params)["usage"]["prompt_tokens"] > 20


def test_tools_can_be_given(core: Core) -> None:
    function = {
        "name": "get_weather",
        "description": "Weather of a city",
        "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
    }
    params = {
        "model": CHAT,
        "prompt": "What is the weather in Paris?",
        "tools": [{"type": "function", "function": function}],
        "params": {"max_tokens": 60},
        "stream": True,
    }
    stream = core.ask("generate", params)
    result = core.response(stream)["result"]
    check_stream(core.stream(stream))
    assert (result["stop_reason"] == "tool_use") == bool(result["tool_calls"])
    for call in result["tool_calls"]:
        assert isinstance(call["arguments"], dict)
        assert call["id"]
    started = [e for e in core.stream(stream) if e["event"]["type"] == "tool_call_start"]
    assert [e["event"]["index"] for e in started] == list(range(len(started)))


def test_max_tokens_is_kept_to(core: Core) -> None:
    result = generate(core, max_tokens=7, ignore_eos=True, thinking="off")
    assert result["usage"]["completion_tokens"] == 7
    assert result["stop_reason"] == "max_tokens"


def test_a_seed_makes_an_answer_repeatable(core: Core) -> None:
    texts = [
        said(generate(core, max_tokens=24, temperature=2.0, seed=seed, ignore_eos=True))
        for seed in (1, 1, 2, "3")
    ]
    assert texts[0] == texts[1]
    assert len(set(texts)) > 1


def said(result: dict[str, Any]) -> str:
    return result.get("reasoning", "") + "|" + result["text"]


def test_a_stop_string_ends_the_answer_and_is_no_part_of_it(core: Core) -> None:
    options = {"temperature": 0.0, "max_tokens": 48, "ignore_eos": True, "thinking": "off"}
    text = generate(core, **options)["text"]
    stop = text[len(text) // 2 :][:3]
    assert stop
    stream = core.generate(CHAT, "Hello!", params={**options, "stop": [stop]})
    result = core.response(stream)["result"]
    assert result["text"] == text[: text.index(stop)]
    assert result["stop_reason"] == "stop_sequence"
    assert text_of(core.stream(stream)) == result["text"]


def test_requests_at_once_are_all_answered(core: Core) -> None:
    streams = [
        core.generate(CHAT, f"Number {index}", params={"max_tokens": 16, "ignore_eos": True})
        for index in range(7)
    ]
    for stream in streams:
        assert core.response(stream)["result"]["usage"]["completion_tokens"] == 16
        check_stream(core.stream(stream))


def test_a_prompt_is_read_once_unless_that_is_not_wanted(core: Core) -> None:
    params = {"temperature": 0, "max_tokens": 3}
    request = {"model": CHAT, "prompt": "What is the capital of Austria?", "params": params}
    core.call("generate", request)
    result = core.call("generate", request)
    usage = result["usage"]
    assert usage["cache_read_tokens"] == usage["prompt_tokens"] - 1
    story = core.call("eventlog.query", {"trace_id": result["trace_id"]})["events"]
    (logged,) = [event["data"] for event in story if event["type"] == "usage"]
    assert logged["cache_read_tokens"] == usage["cache_read_tokens"]
    alone = core.call("generate", {**request, "prefix_cache": False})["usage"]
    assert not alone.get("cache_read_tokens")


def test_a_prompt_that_is_too_long_is_refused_with_the_counts(core: Core) -> None:
    error = core.fail("generate", {"model": CHAT, "prompt": "one two three " * 3000})
    assert error["data"]["kind"] == "context_overflow"
    assert error["data"]["prompt_tokens"] > error["data"]["context_length"] > 0
    assert str(error["data"]["prompt_tokens"]) in error["message"]
    assert error["message"].endswith("shorten it"), "it has all that it was trained on"


def test_more_context_is_advised_where_the_model_knows_more(core: Core, model_path: Path) -> None:
    less = core.register("t/tiny:less", local(model_path, context_length=96))
    error = core.fail("generate", {"model": less, "prompt": "one two three " * 100})
    assert error["data"]["context_length"] == 96
    assert "register the model with a larger `context_length`: it was trained" in error["message"]


def test_more_context_than_a_model_was_trained_on_is_told_in_the_log(
    core: Core, model_path: Path
) -> None:
    more = core.register("t/tiny:more", local(model_path, context_length=1_000_000))
    core.call("models.load", {"model": more})
    assert "`context_length` of t/tiny:more asks for 1000000 tokens" in core.stderr()


def test_an_answer_ends_with_its_context(core: Core, model_path: Path) -> None:
    short = core.register("t/tiny:short", local(model_path, context_length=96))
    options = {"ignore_eos": True, "max_tokens": 10_000, "thinking": "off"}
    result = generate(core, model=short, **options)
    assert result["stop_reason"] == "max_tokens"
    assert result["usage"]["context_window"] == 96
    assert 90 <= result["usage"]["total_tokens"] <= 97


def test_an_answer_that_is_continued_is_the_whole_one_to_the_letter(core: Core) -> None:
    options = {"temperature": 0.0, "thinking": "off"}
    whole = generate(core, **options)
    params = {"max_tokens": 3, **options}
    stream = core.generate(CHAT, "Hello!", params=params, max_tokens_continuations=16)
    result = core.response(stream)["result"]
    check_stream(core.stream(stream))
    assert text_of(core.stream(stream)) == result["text"] == whole["text"]
    assert (whole["stop_reason"], result["stop_reason"]) == ("end_turn", "end_turn")
    assert result["recoveries"] > 1


@pytest.mark.parametrize("continuations", [1, 3])
def test_each_continuation_adds_as_many_tokens_as_an_answer_may_have(
    core: Core, continuations: int
) -> None:
    check_continuations(core, CHAT, continuations)


def test_a_model_whose_tokens_all_go_into_thinking_answers_without(core: Core) -> None:
    params = {"max_tokens": 3, "ignore_eos": True, "temperature": 0.0}
    prompt = "Think about it: what is two and two?"
    first = core.call("generate", {"model": CHAT, "prompt": prompt, "params": params})
    again = core.call(
        "generate", {"model": CHAT, "prompt": prompt, "params": params, "thinking_recovery": True}
    )
    assert (first["text"], first["stop_reason"]) == ("", "thinking_truncated")
    assert (again["recoveries"], again["stop_reason"]) == (1, "max_tokens")
    assert again["text"]


def test_how_likely_the_tokens_are_is_told_where_it_is_asked(core: Core) -> None:
    options = {"temperature": 0, "max_tokens": 5, "thinking": "off", "ignore_eos": True}
    result = generate(core, **options, logprobs=2)
    told = result["logprobs"]
    assert len(told) == 5
    assert bytes(byte for each in told for byte in each["bytes"]).decode() == result["text"]
    for each in told:
        chosen = {name: each[name] for name in ("token", "logprob", "bytes")}
        assert each["top_logprobs"][0] == chosen  # the likeliest, at temperature 0
        assert 0 >= each["logprob"] > each["top_logprobs"][1]["logprob"]
    assert "logprobs" not in generate(core, **options)


def test_what_cannot_be_enforced_is_refused(core: Core) -> None:
    for extra in (
        {"images": [{"type": "image", "source": {"type": "url", "url": "http://x/y.png"}}]},
    ):
        error = core.fail("generate", {"model": CHAT, "prompt": "x", **extra})
        assert error["data"]["kind"] == "unsupported_mode"


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "AA=="}}


@pytest.mark.parametrize(
    "block", [IMAGE, {"type": "tool_result", "tool_use_id": "1", "content": [IMAGE]}]
)
def test_content_that_the_model_does_not_understand_is_refused_by_its_place(
    core: Core, block: dict[str, Any]
) -> None:
    messages = [{"role": "user", "content": [{"type": "text", "text": "What is this?"}, block]}]
    error = core.fail("generate", {"model": CHAT, "messages": messages})
    assert error["data"]["kind"] == "unsupported_mode"
    assert "messages[0].content[1]" in error["message"]
    assert "projector" in error["message"]


# Embedding and tokens


def test_embeddings_have_unit_length_and_the_order_of_the_texts(core: Core) -> None:
    texts = ["A cat sleeps.", "The stock market fell.", "A cat sleeps."]
    result = core.call("embed", {"model": EMBED, "texts": texts})
    vectors = result["embeddings"]
    assert [len(vector) for vector in vectors] == [result["dimensions"]] * 3
    for vector in vectors:
        assert sum(x * x for x in vector) == pytest.approx(1.0, abs=1e-4)
    assert vectors[0] == pytest.approx(vectors[2], abs=1e-4)
    assert vectors[0] != pytest.approx(vectors[1], abs=1e-2)
    assert result["usage"]["prompt_tokens"] > 0
    encoded = core.call("embed", {"model": EMBED, "texts": texts, "encoding": "base64"})
    for vector, text in zip(vectors, encoded["embeddings"], strict=True):
        assert array.array("f", base64.b64decode(text)).tolist() == pytest.approx(vector, abs=1e-4)


def test_a_text_that_is_too_long_to_embed_is_named(core: Core) -> None:
    error = core.fail("embed", {"model": EMBED, "texts": ["short", "one two three " * 3000]})
    assert error["data"]["kind"] == "context_overflow"


@pytest.mark.parametrize("text", ["", "Hello, world!", "Grüße \N{GRINNING FACE}\n\ttab", "日本語"])
def test_tokens_round_trip(core: Core, text: str) -> None:
    tokens = core.call("tokenize", {"model": CHAT, "text": text})["tokens"]
    assert bool(tokens) == bool(text)
    assert core.call("detokenize", {"model": CHAT, "tokens": tokens})["text"] == text


def test_a_token_that_is_none_is_refused(core: Core) -> None:
    error = core.fail("detokenize", {"model": CHAT, "tokens": [10**6]})
    assert error["data"]["kind"] == "tokenization_error"


# Responsiveness and cancelling


def test_a_ping_overtakes_a_decode(core: Core) -> None:
    stream = start_endless(core)
    core.ping()
    assert core.responses(stream) == 0
    core.cancel(stream)
    error = core.response(stream)["error"]
    assert error["code"] == -32800
    events = core.stream(stream)
    check_stream(events, "error")
    assert error["data"]["partial"]["text"] == text_of(events)
    assert generate(core, max_tokens=2)["stop_reason"]


def test_a_decode_can_be_cancelled_at_any_moment(
    core: Core, proof_count: Callable[[int, int], int]
) -> None:
    for index in range(proof_count(5, 100)):
        stream = core.generate(CHAT, "word " * index, params=ENDLESS)
        if index % 2:
            core.first_event(stream, "attempt")
        core.cancel(stream)
        assert core.response(stream)["error"]["code"] == -32800
        if events := core.stream(stream):  # a request that never began has none
            check_stream(events, "error")


def test_a_ping_overtakes_a_load(
    start_core: StartCore, make_gate: Callable[[str], Gate], model_path: Path
) -> None:
    gate = make_gate("car_rpc.workers.llama_cpp.engine")
    core = ready(start_core(env=gate.env), model_path)
    stream = core.generate(CHAT, params={"max_tokens": 2})
    wait_until(gate.reached)
    core.ping()
    assert core.responses(stream) == 0
    gate.open()
    assert core.response(stream)["result"]["usage"]["completion_tokens"] <= 2


def test_a_load_whose_request_is_cancelled_ends_and_the_next_one_loads_afresh(
    start_core: StartCore, make_gate: Callable[[str], Gate], model_path: Path
) -> None:
    gate = make_gate("car_rpc.workers.llama_cpp.engine")
    core = ready(start_core(env=gate.env), model_path)
    stream = core.generate(CHAT, params={"max_tokens": 2})
    wait_until(gate.reached)
    worker = core.worker()
    core.cancel(stream)
    assert core.response(stream)["error"]["code"] == -32800, "while it is still loading"
    assert_gone([worker])
    again = core.generate(CHAT, params={"max_tokens": 2})
    gate.open()
    assert core.response(again)["result"]["usage"]["completion_tokens"] <= 2
    assert not core.call("eventlog.query", {"types": ["worker_crash"]})["events"]


def test_models_of_one_file_share_a_worker(own_core: Core, model_path: Path) -> None:
    other = own_core.register("t/tiny:other", local(model_path))
    generate(own_core, max_tokens=1)
    generate(own_core, model=other, max_tokens=1)
    assert own_core.worker().is_running()


# Endings


def test_kill_9_of_the_worker_amid_a_decode_fails_its_requests_alone(
    own_core: Core, proof_count: Callable[[int, int], int]
) -> None:
    core = own_core
    for _ in range(proof_count(1, 50)):
        streams = [start_endless(core, recovery="none") for _ in range(2)]
        worker = core.worker()
        worker.kill()
        for stream in streams:
            error = core.response(stream)["error"]
            assert error["data"]["kind"] == "worker_crashed"
            assert error["data"]["retryable"] is True
            assert error["data"]["model"] == CHAT
            check_stream(core.stream(stream), "error")
        assert_gone([worker])
        assert generate(core, max_tokens=2)["model_used"] == CHAT
        assert core.worker().pid != worker.pid
    assert core.call("eventlog.query", {"types": ["worker_crash"]})["events"]


def test_kill_9_of_the_worker_amid_an_answer_is_not_seen_in_its_text(
    own_core: Core, proof_count: Callable[[int, int], int]
) -> None:
    core = own_core
    params = {"temperature": 0, "max_tokens": 60}
    question = {"model": CHAT, "prompt": "Tell me a short story.", "params": params}
    whole = core.call("generate", question)
    for _ in range(proof_count(2, 50)):
        stream = core.generate(CHAT, question["prompt"], params=params)
        core.wait_for(lambda m, s=stream: is_delta(m, s) and m["params"]["seq"] > 20)
        core.worker().kill()
        response = core.response(stream)
        if "recoveries" in response["result"]:
            break
    result = response["result"]
    assert (result["text"], result["recoveries"]) == (whole["text"], 1)
    for count in ("prompt_tokens", "completion_tokens"):
        assert result["usage"][count] == whole["usage"][count]
    assert [attempt["outcome"] for attempt in result["attempts"]] == ["worker_crashed", "success"]
    kinds = [m["event"]["type"] for m in core.stream(stream)]
    assert kinds.count("recovery") == 1
    check_stream(core.stream(stream), "done")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_signal_amid_a_decode_leaves_no_process(own_core: Core, number: signal.Signals) -> None:
    start_endless(own_core)
    processes = own_core.tree()
    assert len(processes) == 2
    os.kill(own_core.pid, number)
    own_core.wait()
    assert_gone(processes)


def test_the_end_of_input_amid_a_decode_leaves_no_process(own_core: Core) -> None:
    stream = start_endless(own_core)
    processes = own_core.tree()
    own_core.close_stdin()
    assert own_core.wait() == 0
    assert_gone(processes)
    own_core.ended_output()
    assert own_core.response(stream)["error"]["code"] == -32800


def test_the_parents_death_amid_a_decode_leaves_no_process(
    start_core: StartCore, inherits_orphans: None, model_path: Path
) -> None:
    core = start_core(kind=Adopted, told_by="process_id")
    ready(core, model_path)
    assert isinstance(core, Adopted)
    start_endless(core)
    processes = core.tree()
    core.parent.kill()
    core.parent.wait()
    assert core.exit_code() == 3
    assert_gone(processes)


# Files that are no good


BadFile = Callable[[Path, Path], object]

BAD_FILES: dict[str, tuple[BadFile, str]] = {
    "missing": (lambda path, good: None, "io_error"),
    "folder": (lambda path, good: path.mkdir(), "io_error"),
    "empty": (lambda path, good: path.write_bytes(b""), "model_load_failed"),
    "no GGUF": (lambda path, good: path.write_bytes(b"<html>" * 1000), "model_load_failed"),
    "only a magic": (lambda path, good: path.write_bytes(b"GGUF"), "model_load_failed"),
    "garbage behind the magic": (
        lambda path, good: path.write_bytes(b"GGUF" + b"\xff" * 4096),
        "model_load_failed",
    ),
    "truncated": (
        lambda path, good: path.write_bytes(good.read_bytes()[: good.stat().st_size // 2]),
        "model_load_failed",
    ),
    "truncated by a byte": (
        lambda path, good: path.write_bytes(good.read_bytes()[:-1]),
        "model_load_failed",
    ),
    "header only": (
        lambda path, good: path.write_bytes(good.read_bytes()[:3000]),
        "model_load_failed",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_file_that_is_no_good_is_named_and_can_be_mended(
    core: Core, model_path: Path, tmp_path: Path, case: str
) -> None:
    spoil, kind = BAD_FILES[case]
    path = tmp_path / "model.gguf"
    spoil(path, model_path)
    model = core.register(f"t/bad:{case.replace(' ', '-')}", local(path))
    stream = core.generate(model)
    error = core.response(stream)["error"]
    check_stream(core.stream(stream), "error")
    assert error["data"]["kind"] == kind
    assert error["data"]["path"] == str(path)
    assert error["data"]["model"] == model
    assert str(path) in error["message"]
    assert "Traceback" not in error["message"]
    told = core.call("models.get", {"model": model})["model"]
    assert not told["available"], "nobody who names no model gets it"
    assert str(path) in told["reason"]
    if case in {"missing", "truncated"}:
        shutil.copy(model_path, path)
        mended = core.call("models.get", {"model": model})["model"]
        assert (mended["available"], "reason" in mended) == (True, False)
        assert generate(core, model=model, max_tokens=1)["model_used"] == model
    core.call("models.unregister", {"model": model})


# Templates that are no good


def with_template(source: Path, target: Path, template: str) -> Path:
    """A copy of a model file with another chat template."""
    import gguf

    reader = gguf.GGUFReader(source)
    architecture = reader.fields["general.architecture"].contents()
    writer = gguf.GGUFWriter(target, architecture)
    for name, field in reader.fields.items():
        if name.startswith("GGUF.") or name == "general.architecture":
            continue
        kind = field.types[0]
        inner = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        value = template if name == "tokenizer.chat_template" else field.contents()
        writer.add_key_value(name, value, kind, sub_type=inner)
    for tensor in reader.tensors:
        writer.add_tensor(tensor.name, tensor.data, raw_dtype=tensor.tensor_type)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


BAD_TEMPLATES = {
    "syntax": "{% for %}",
    "undefined": "{{ messages.nothing.more }}",
    "refusal": "{{ raise_exception('roles must alternate') }}",
    "escape": "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "flood": "{% for a in range(90000) %}{{ 'x' * 90000 }}{% endfor %}",
    "power": "{{ 9 ** 9 ** 9 }}",
}


@pytest.mark.parametrize("case", BAD_TEMPLATES)
def test_a_template_that_does_not_render_is_the_requests_error(
    start_core: StartCore, model_path: Path, tmp_path: Path, case: str
) -> None:
    path = with_template(model_path, tmp_path / f"{case}.gguf", BAD_TEMPLATES[case])
    core = start_core()
    core.initialize()
    model = core.register(f"t/template:{case}", local(path))
    for _ in range(2):
        error = core.fail("generate", {"model": model, "prompt": "x"})
        assert error["data"]["kind"] == "invalid_request"
        assert "template" in error["message"]
        assert "Traceback" not in error["message"]
    # The rest of the model is as good as ever.
    assert core.call("tokenize", {"model": model, "text": "hello"})["tokens"]


def test_a_template_that_never_ends_is_stopped_after_ten_seconds(
    core: Core, model_path: Path, tmp_path: Path
) -> None:
    depth = 5
    loops = "".join(f"{{% for {name} in range(90000) %}}" for name in "abcde"[:depth])
    path = with_template(model_path, tmp_path / "e.gguf", loops + "{% endfor %}" * depth)
    model = core.register("t/template:endless", local(path))
    generate(core, max_tokens=1)
    before = {process.pid for process in core.tree()}
    stream = core.generate(model)
    core.first_event(stream, "attempt")
    # Others are served meanwhile.
    assert generate(core, max_tokens=2)["model_used"] == CHAT
    error = core.response(stream)["error"]
    assert error["data"]["kind"] == "invalid_request"
    assert "template" in error["message"]
    check_stream(core.stream(stream), "error")
    # Its worker is gone, and the others are not.
    wait_until(lambda: {process.pid for process in core.tree()} == before)


def test_everything_at_once(core: Core, proof_count: Callable[[int, int], int]) -> None:
    """Streams, embeddings, tokens, errors and cancels mixed; each gets its own answer."""
    count = proof_count(12, 600)
    asked: dict[str, str] = {}
    for index, kind in zip(range(count), itertools.cycle(("text", "embed", "bad", "cancel"))):
        request_id = asked[f"{kind}-{index}"] = f"{kind}-{index}"
        params: dict[str, Any] = {"model": CHAT, "prompt": f"{index}", "stream": True}
        params["params"] = {"max_tokens": 8, "ignore_eos": True}
        if kind == "text":
            core.send(request(request_id, "generate", params))
        elif kind == "embed":
            core.send(request(request_id, "embed", {"model": EMBED, "texts": [f"{index}"]}))
        elif kind == "bad":
            core.send(request(request_id, "generate", {**params, "model": "no/such:1"}))
        else:
            core.send(request(request_id, "generate", {**params, "params": ENDLESS}))
            core.cancel(request_id)
    for request_id in asked:
        response = core.response(request_id)
        if request_id.startswith(("text", "embed")):
            assert "result" in response
        elif request_id.startswith("bad"):
            assert response["error"]["data"]["kind"] == "model_not_found"
        else:
            assert response["error"]["code"] == -32800
        assert core.responses(request_id) == 1
