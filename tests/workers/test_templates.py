"""The templates of real models: what they write of a call is read back as that call.

They come with the source of llama-cpp-python, which is fetched and of which nothing is kept here.
`CAR_RPC_TEMPLATES` may name a folder of them instead, as where there is no network.
"""

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.workers.chat.messages import template_tools
from car_rpc.workers.chat.template import ChatTemplate
from car_rpc.workers.text.answer import Answer
from car_rpc.workers.text.calls.families import family_of
from tests.workers.test_calls import PARIS, WEATHER, calls_of, merged

LLAMA = "llama-cpp-python==0.3.36"
FOLDER = "vendor/llama.cpp/models/templates/"
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
def templates(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    if folder := os.environ.get("CAR_RPC_TEMPLATES"):
        return {path.stem: path.read_text() for path in Path(folder).glob("*.jinja")}
    target = tmp_path_factory.mktemp("sdist")
    get = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-build-isolation"]
    subprocess.run([*get, "--no-binary", ":all:", "--dest", str(target), LLAMA], check=True)
    (sdist,) = target.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        return {
            Path(member.name).stem: archive.extractfile(member).read().decode()
            for member in archive
            if FOLDER in member.name and member.name.endswith(".jinja")
        }


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


def render(source: str) -> str:
    name, arguments = PARIS
    function = {"name": name, "arguments": arguments}
    call = {"type": "function", "id": "abcdefghi", "function": function, **function}
    messages = [
        {"role": "user", "content": BEGIN},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": END, "tool_call_id": "abcdefghi", "name": name},
    ]
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    tools = template_tools([WEATHER])
    variables: dict[str, Any] = {"messages": messages, "tools": tools}
    return ChatTemplate(source, tokens).render({**variables, "add_generation_prompt": True})


def test_the_family_of_a_model_is_known(templates: dict[str, str]) -> None:
    found = chosen(templates)
    known = {name: family_of(text, lambda text: False).name for name, text, _ in found}
    # Which shows by its vocabulary alone.
    known["LFM2.5-Instruct"] = family_of("", lambda text: "tool_call_start" in text).name
    assert known == {name: family for name, _, family in found}


def test_what_a_template_writes_of_a_call_is_that_call(templates: dict[str, str]) -> None:
    for name, text, _ in chosen(templates):
        if name.startswith(SILENT):
            continue
        family = family_of(text, lambda _: False)
        prompt = render(text)
        said = prompt[prompt.index(BEGIN) : prompt.index(END)]
        # Where the call begins, which is where the model's own turn would.
        begin = said.index(family.opening if family.opening in said and family.opening else "{")
        if family.channels:
            begin = said.rindex("<|start|>assistant", 0, said.index("get_weather"))
        said = said[begin:]
        if family.channels:
            said = said.removeprefix("<|start|>assistant").partition("<|call|>")[0]
        answer = Answer(tools=[WEATHER], family=family)
        events = merged([*answer.segments.feed(said), *answer.segments.finish()])
        calls = [event for event in events if hasattr(event, "index")]
        assert calls_of(calls) == [PARIS], (name, said)


def test_templates_render_or_say_what_is_wrong(templates: dict[str, str]) -> None:
    wrong: dict[str, str] = {}
    for name, text in sorted(templates.items()):
        try:
            assert BEGIN in render(text)
        except CarError as error:
            wrong[name] = error.message
    assert set(wrong) <= REFUSED, wrong
