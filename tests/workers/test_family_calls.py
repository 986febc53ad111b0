"""The demo model calls tools as each family does, on every engine for language models."""

import functools
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from car_rpc.workers.runtime import Engine
from car_rpc.workers.text.calls.families import FAMILIES
from tests.workers.conftest import DEMO_FOLDER, DEMO_MODEL, Kind, Load
from tests.workers.test_engines import finish, run, token
from tests.workers.test_structured import (
    CLOCK,
    PARAMETERS,
    TOOL_TEMPLATE,
    WEATHER,
    calling,
    calls_of,
    prepared,
)

MARKS = {family.name: family.marks for family in FAMILIES}

#: Families whose arguments are not JSON, and gpt-oss, whose calls have a header.
NAMES = ["qwen_coder", "glm", "gemma4", "function_gemma", "lfm2", "llama4", "harmony"]

#: Of every type that there is.
BOOKING: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "book_table",
        "parameters": {
            "type": "object",
            "properties": {
                "guests": {"type": "integer", "minimum": 1, "maximum": 9},
                "place": {"type": "string", "maxLength": 5},
                "day": {"type": "string", "pattern": "^(mon|tues|fri)day$"},
                "outside": {"type": "boolean"},
                "note": {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
                "menu": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {"dish": {"enum": ["soup", "fish"]}, "many": {"const": 2}},
                        "required": ["dish", "many"],
                        "additionalProperties": False,
                    },
                    "maxItems": 1,
                },
            },
            "required": ["guests", "place", "day", "outside", "note", "menu"],
            "additionalProperties": False,
        },
    },
}


@pytest.fixture(scope="module")
def demo(
    kind: Kind, load: Load, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Engine]:
    """The demo model with a template by which it is of a family."""
    folder = tmp_path_factory.mktemp("demo")
    write = write_file if kind.engine == "llama_cpp" else write_folder

    @functools.cache
    def engine(name: str) -> Engine:
        template = f"{TOOL_TEMPLATE}{{#{' '.join(MARKS[name])}#}}"
        return load(write(folder / name, template))

    return engine


def write_folder(path: Path, template: str) -> Path:
    shutil.copytree(DEMO_FOLDER, path)
    config = json.loads((path / "tokenizer_config.json").read_text())
    config["chat_template"] = template
    (path / "tokenizer_config.json").write_text(json.dumps(config))
    return path


def write_file(path: Path, template: str) -> Path:
    import gguf
    from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

    reader = gguf.GGUFReader(DEMO_MODEL)
    architecture = reader.get_field("general.architecture").contents()
    writer = gguf.GGUFWriter(path, architecture)
    new = {"tokenizer.chat_template": MetadataDetails(gguf.GGUFValueType.STRING, template)}
    copy_with_new_metadata(reader, writer, new, [])
    return path


@pytest.mark.parametrize("name", NAMES)
def test_a_demanded_call_is_one_of_the_family(demo: Callable[[str], Engine], name: str) -> None:
    request = calling(BOOKING, CLOCK, must=["book_table"], max_tokens=400)
    (asked,) = run(demo(name), msgspec.structs.replace(request, parallel_tool_calls=False))
    ((called, arguments),) = calls_of(asked)
    assert (called, asked.reason, asked.text) == ("book_table", "tool_use", "")
    jsonschema.validate(arguments, BOOKING["function"]["parameters"])


def test_a_call_between_tags_that_the_model_begins_is_right(
    load: Load, model: Callable[..., Path]
) -> None:
    engine = load(model(f"{TOOL_TEMPLATE}{{#{' '.join(MARKS['qwen_coder'])}#}}"))
    bias = {token(engine, "<tool_call>"): 1000.0}
    asked = prepared(engine, calling(WEATHER, logit_bias=bias, parallel_tool_calls=False))
    finish(engine, asked)
    ((called, arguments),) = calls_of(asked)
    assert (called, asked.reason) == ("weather", "tool_use")
    jsonschema.validate(arguments, PARAMETERS["weather"])
