"""Profiles of another engine are taken over when the process starts: once, and never over ours."""

import json
import logging
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from car_rpc.outcomes.earlier import FILE_NAME, take_over
from car_rpc.outcomes.profiles import AttemptEnd
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.wire.outcomes import ModelProfile

#: As the reference engine writes it: whole numbers, and seconds since 1970.
QWEN = {
    "model_id": "qwen/qwen3-8b:q4_k_m",
    "total_calls": 12,
    "success_count": 3,
    "fail_count": 9,
    "total_latency_ms": 1200,
    "total_input_tokens": 0,
    "total_output_tokens": 0,
    "task_stats": {},
    "ema_quality": 0.21,
    "quality_per_1k_tokens": 0.0,
    "updated_at": 1,
}

Write = Callable[..., Path]


@pytest.fixture
def store(tmp_path: Path) -> Iterator[OutcomeStore]:
    store = OutcomeStore(tmp_path / "car.db")
    yield store
    store.close()


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def write(*profiles: dict[str, Any], folder: str = "") -> Path:
        path = tmp_path / folder / FILE_NAME
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(profiles))
        return path

    return write


def profiles(store: OutcomeStore) -> dict[str, ModelProfile]:
    return {profile.model_id: profile for profile in store.changed_profiles(0)[0]}


def test_the_profiles_of_the_reference_engine_are_taken_over_as_it_wrote_them(
    store: OutcomeStore, write: Write, tmp_path: Path
) -> None:
    write(QWEN)
    take_over([tmp_path], store)
    (profile,) = profiles(store).values()
    assert (profile.model_id, profile.total_calls, profile.ema_quality) == (
        "qwen/qwen3-8b:q4_k_m",
        12,
        0.21,
    )
    assert profile.updated_at == "1970-01-01T00:00:01.000Z"


def test_a_file_is_taken_over_once_and_a_changed_one_again(
    store: OutcomeStore, write: Write, tmp_path: Path
) -> None:
    write(QWEN)
    take_over([tmp_path], store)
    store.replace([ModelProfile(model_id=QWEN["model_id"])])
    take_over([tmp_path], store)
    assert profiles(store)[QWEN["model_id"]].total_calls == 0
    write({**QWEN, "total_calls": 13})
    take_over([tmp_path], store)
    assert profiles(store)[QWEN["model_id"]].total_calls == 13


def test_what_was_observed_here_is_kept(store: OutcomeStore, write: Write, tmp_path: Path) -> None:
    end = AttemptEnd("tr", 1, QWEN["model_id"], "generate", "success", 5.0)
    store.record([end], lambda model_id: ModelProfile(model_id=model_id), "2026-01-01T00:00:00Z")
    write(QWEN, {**QWEN, "model_id": "b/c:d"})
    take_over([tmp_path], store)
    assert {each.model_id: each.total_calls for each in profiles(store).values()} == {
        QWEN["model_id"]: 1,
        "b/c:d": 12,
    }


def test_both_folders_are_looked_into(store: OutcomeStore, write: Write, tmp_path: Path) -> None:
    write(QWEN)
    write({**QWEN, "model_id": "b/c:d"}, folder="models")
    take_over([tmp_path, tmp_path / "models", tmp_path / "nowhere"], store)
    assert profiles(store).keys() == {QWEN["model_id"], "b/c:d"}


@pytest.mark.parametrize(
    "text",
    ["{", "{}", '[{"model_id": 1}]', '[{"model_id": "a", "success_count": 1}]',
     '[{"model_id": "a", "updated_at": 9007199254740991}]'],
)  # fmt: skip
def test_a_file_that_cannot_be_is_warned_of_and_changes_nothing(
    store: OutcomeStore, tmp_path: Path, caplog: pytest.LogCaptureFixture, text: str
) -> None:
    (tmp_path / FILE_NAME).write_text(text)
    take_over([tmp_path], store)
    (warning,) = [each for each in caplog.records if each.levelno == logging.WARNING]
    assert "are not taken over" in warning.getMessage()
    assert profiles(store) == {}
