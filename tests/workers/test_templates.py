"""The templates of real models: what they write of a call is read back as that call.

They come with the source of llama-cpp-python, which is fetched and of which nothing is kept here.
`CAR_RPC_TEMPLATES` may name a folder of them instead, as where there is no network.
"""

import functools
import os
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.wire.worker import Generate
from car_rpc.workers.chat.messages import template_tools
from car_rpc.workers.chat.template import ChatTemplate
from car_rpc.workers.text.answer import Answer
from car_rpc.workers.text.calls.families import Family, family_of
from tests.workers.conftest import DEMO_MODEL
from tests.workers.test_calls import PARIS, WEATHER, calls_of, merged

LLAMA = "llama-cpp-python==0.3.36"
FOLDER = "vendor/llama.cpp/models/"
GEMMA = "ggml-vocab-gemma-4.gguf"
BEGIN, END = "What is the weather?", "It is sunny."

#: The family of each template whose calls are read, by the beginning of its file's name.
FAMILIES = {
    "GLM-4.": "glm",
    "HuggingFaceTB-SmolLM3": "hermes",
    "Kimi-K2-Instruct": "kimi",
    "LFM2": "lfm2",
    "MiMo-VL": "hermes",
    "Mistral-Small-3.2": "mistral",
    "NousResearch-Hermes": "hermes",
    "Qwen-QwQ": "hermes",
    "Qwen-Qwen": "hermes",
    "Qwen3-Coder": "qwen_coder",
    "Qwen3.5": "qwen_coder",
    "deepseek-ai-DeepSeek-R1": "deepseek_v3",
    "deepseek-ai-DeepSeek-V3.1": "deepseek",
    "google-gemma-4": "gemma4",
    "meta-llama-Llama-3": "llama",
    "mistralai-Ministral": "mistral",
    "mistralai-Mistral-Nemo": "mistral_list",
    "moonshotai-Kimi-K2": "kimi",
    "openai-gpt-oss": "harmony",
}

#: Those that write no calls of earlier turns, or only of turns whose content is null.
SILENT = ("HuggingFaceTB-SmolLM3", "LFM2", "deepseek-ai-DeepSeek-R1-Distill-Llama")


#: Those that fail: they want more of a parameter, take no tools, or want other names for them.
REFUSED = {
    "CohereForAI-c4ai-command-r-plus-tool_use",
    "fireworks-ai-llama-3-firefunction-v2",
    "google-gemma-2-2b-it",
    "llama-cpp-deepseek-r1",
    "meetkai-functionary-medium-v3.2",
}


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of templates and of vocabularies without weights."""
    if folder := os.environ.get("CAR_RPC_TEMPLATES"):
        return Path(folder).parent
    target = tmp_path_factory.mktemp("sdist")
    get = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    subprocess.run([*get, "--no-binary", ":all:", "--dest", str(target), LLAMA], check=True)
    (sdist,) = target.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        wanted = [
            member
            for member in archive
            if FOLDER in member.name and member.name.endswith((".jinja", GEMMA))
        ]
        archive.extractall(target, wanted, filter="data")
    (folder,) = target.glob(f"*/{FOLDER}")
    return folder


@pytest.fixture(scope="session")
def templates(models: Path) -> dict[str, str]:
    return {path.stem: path.read_text() for path in models.glob("templates/*.jinja")}


def chosen(templates: dict[str, str]) -> list[tuple[str, str, str]]:
    """Name, text and family of the templates whose family is known."""
    found = [
        (name, text, FAMILIES[beginning])
        for name, text in sorted(templates.items())
        for beginning in FAMILIES
        if name.startswith(beginning)
    ]
    assert len(found) >= len(FAMILIES)
    return found


def render(source: str, call: tuple[str, Any] = PARIS, tool: Any = WEATHER) -> str:
    name, arguments = call
    function = {"name": name, "arguments": arguments}
    called = {"type": "function", "id": "abcdefghi", "function": function, **function}
    messages = [
        {"role": "user", "content": BEGIN},
        {"role": "assistant", "content": "", "tool_calls": [called]},
        {"role": "tool", "content": END, "tool_call_id": "abcdefghi", "name": name},
    ]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    tools = template_tools([tool])
    variables: dict[str, Any] = {"messages": messages, "tools": tools}
    return ChatTemplate(source, tokens).render({**variables, "add_generation_prompt": True})


def test_the_family_of_a_model_is_known(templates: dict[str, str]) -> None:
    found = chosen(templates)
    known = {name: family_of(text, lambda text: False).name for name, text, _ in found}
    # Which shows by its vocabulary alone.
    known["LFM2.5-Instruct"] = family_of("", lambda text: "tool_call_start" in text).name
    assert known == {name: family for name, _, family in found}


def said_of(prompt: str, family: Family) -> str:
    """What stands in a prompt from the call on, which is where the model's own turn would begin."""
    said = prompt[prompt.index(BEGIN) : prompt.index(END)]
    if family.channels:
        said = said[said.rindex("<|start|>assistant", 0, said.index("get_weather")) :]
        return said.removeprefix("<|start|>assistant").partition("<|call|>")[0]
    return said[said.index(family.opening if family.opening in said and family.opening else "{") :]


def test_what_a_template_writes_of_a_call_is_that_call(templates: dict[str, str]) -> None:
    for name, text, _ in chosen(templates):
        if name.startswith(SILENT):
            continue
        family = family_of(text, lambda _: False)
        said = said_of(render(text), family)
        answer = Answer(tools=[WEATHER], family=family)
        events = merged([*answer.segments.feed(said), *answer.segments.finish()])
        calls = [event for event in events if hasattr(event, "index")]
        assert calls_of(calls) == [PARIS], (name, said)


#: Arguments of all types, which no template writes in another way than its model.
RICH = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string"},
                "days": {"type": "integer"},
                "exact": {"type": "boolean"},
                "hours": {"type": "array", "items": {"type": "number"}},
                "near": {"type": "object", "properties": {"lat": {"type": "number"}}},
                "note": {"type": "string", "maxLength": 20},
            },
            "required": ["city"],
        },
    },
}
ARGUMENTS = {"city": "K\u00f6ln <1>", "days": 2, "exact": True,
             "hours": [0.5, 12], "near": {"lat": -3.25}, "note": "today"}  # fmt: skip

#: Those that write numbers of their own into calls, which nobody demands.
NUMBERED = ("Mistral-Small-3.2", "mistralai-Mistral-Nemo")


@pytest.mark.llama
def test_what_a_template_writes_of_a_call_is_allowed_where_one_is_demanded(
    templates: dict[str, str], models: Path, proof_count: Callable[[int, int], int]
) -> None:
    vocabularies = [DEMO_MODEL, models / GEMMA][: proof_count(1, 2)]  # the second is large
    for name, text, known in chosen(templates):
        if name.startswith((*SILENT, *NUMBERED)) and name != "LFM2.5-8B-A1B":
            continue
        family = family_of(text, lambda _: False)
        said = said_of(render(text, ("get_weather", ARGUMENTS), RICH), family)
        for path in vocabularies if known == "gemma4" else vocabularies[:1]:
            whole = demanded_of(said, family, read_vocabulary(path))
            answer = Answer(tools=[RICH], family=family)
            events = merged([*answer.segments.feed(whole), *answer.segments.finish()])
            assert calls_of(events) == [("get_weather", ARGUMENTS)], (name, whole)


def demanded_of(said: str, family: Family, words: Any) -> str:
    """As much of what was said as is the one call that is demanded, token by token."""
    from car_rpc.workers.constraint.calls import demanded_calls

    words.show(family.markers)
    request = Generate(
        id=1, messages=[], tools=[RICH], must_call=["get_weather"], parallel_tool_calls=False
    )
    guides = guides_of(words, family.markers)
    guide = guides.guide(demanded_calls(request, family, guides))
    taken: list[int] = []
    for token in words.tokenize(said, special=True):
        if guide.complete:
            break
        assert guide.allows(token), said
        guide.accept(token)
        taken.append(token)
    assert guide.complete, said
    return b"".join(guides.spelling(token) for token in taken).decode()


@functools.cache
def guides_of(words: Any, markers: tuple[str, ...]) -> Any:
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary

    return GuideVocabulary(words.spellings(), functools.partial(words.tokenize, special=False))


@functools.cache
def read_vocabulary(path: Path) -> Any:
    from car_rpc.workers.llama_cpp.native import lib
    from car_rpc.workers.llama_cpp.vocab import Vocab

    params = lib.llama_model_default_params()
    params.vocab_only = True
    model = lib.llama_model_load_from_file(str(path).encode(), params)  # which is never freed
    return Vocab(lib.llama_model_get_vocab(model))


def test_templates_render_or_say_what_is_wrong(templates: dict[str, str]) -> None:
    wrong: dict[str, str] = {}
    for name, text in sorted(templates.items()):
        try:
            assert BEGIN in render(text)
        except CarError as error:
            wrong[name] = error.message
    assert set(wrong) <= REFUSED, wrong
