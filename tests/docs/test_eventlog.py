"""The commands and programs of the page on the event log, run as they stand, in their order."""

import sys
from pathlib import Path

import pytest

from tests.docs.test_readme import BLOCK, ROOT, run, shell

pytestmark = [pytest.mark.process, pytest.mark.llama]


def test_the_page_on_the_event_log_runs_from_its_beginning_to_its_end(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "EVENTLOG.md").read_text(encoding="utf-8")
    state_dir = tmp_path / "state"
    printed: list[str] = []
    for language, code in BLOCK.findall(text):
        if language == "bash":
            printed.append(shell(code, tmp_path, state_dir))
        else:
            assert language == "python"
            printed.append(run([sys.executable, "-c", code], tmp_path, state_dir))
    listed, program, kept, _ = printed
    assert "completion" in listed
    assert "success" in listed
    assert "session_start" in listed
    assert listed.rstrip().endswith("all is decided as it was")
    assert "events deleted" in program
    assert "are as they were written" in kept
    assert (tmp_path / "another" / "car.db").is_file()
    assert "gen_ai.input.messages" not in (tmp_path / "spans.json").read_text()
    assert "gen_ai.input.messages" in (tmp_path / "spans-with-content.json").read_text()
