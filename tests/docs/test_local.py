"""The programs of the page on local models, run as they stand."""

import ast
import sys
from pathlib import Path

import msgspec
import pytest

from car_rpc.wire.models import LocalSource, ModelsRegisterParams
from car_rpc.wire.sources import adapters_of
from car_rpc.wire.speculation import LookupSpeculation
from tests.docs.test_readme import BLOCK, ROOT, run

pytestmark = [pytest.mark.process, pytest.mark.llama]


def test_the_programs_of_the_page_on_local_models_run(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "LOCAL.md").read_text(encoding="utf-8")
    blocks = BLOCK.findall(text)
    assert [language for language, _ in blocks] == ["python"] * 3 + ["json"] * 2
    formed, called, seen = (
        run([sys.executable, "-c", code], tmp_path, tmp_path / "state") for _, code in blocks[:3]
    )
    person, _, valid = formed.strip().rpartition(" ")
    assert set(ast.literal_eval(person)) == {"name", "age"}
    assert valid == "True"
    assert called.startswith("get_weather {'city': ")
    assert seen.strip() == "It is blue."
    params = msgspec.json.decode(blocks[3][1])["params"]
    source = msgspec.convert(params, ModelsRegisterParams).model.source
    assert [adapter.scale for adapter in adapters_of(source)] == [1.0, 0.5]
    guessing = msgspec.json.decode(blocks[4][1], type=LocalSource)
    assert guessing.speculation == LookupSpeculation()
