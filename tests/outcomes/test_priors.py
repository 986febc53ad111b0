import json
import logging
from pathlib import Path

import pytest

from car_rpc.outcomes.priors import VARIABLE, load_priors, prior_paths


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def scores(paths: list[Path]) -> dict[str, float]:
    return {name: loaded.prior.overall_score for name, loaded in load_priors(paths).items()}


def test_three_places_are_looked_at_in_order_and_each_once(tmp_path: Path) -> None:
    models = tmp_path / "models"
    near, above = models / "benchmark_priors.json", tmp_path / "benchmark_priors.json"
    assert prior_paths(models, {}) == [near, above]
    assert prior_paths(models, {VARIABLE: "/else/where.json"}) == [
        near,
        above,
        Path("/else/where.json"),
    ]
    assert prior_paths(models, {VARIABLE: str(above)}) == [near, above]
    assert prior_paths(models, {VARIABLE: " "}) == [near, above]


def test_a_later_file_wins_and_is_named_as_the_source(tmp_path: Path) -> None:
    first = write(
        tmp_path / "1.json",
        [{"model_id": "a", "overall_score": 0.1}, {"model_id": "b", "overall_score": 0.2}],
    )
    second = write(tmp_path / "2.json", {"model_id": "a", "overall_score": 0.9})
    assert scores([first, second]) == {"a": 0.9, "b": 0.2}
    loaded = load_priors([first, second])
    assert (loaded["a"].source_path, loaded["b"].source_path) == (second, first)


def test_a_prior_is_a_profile_without_any_call(tmp_path: Path) -> None:
    entry = {"model_id": "a", "overall_score": 0.88, "task_scores": {"code": 0.3}, "note": "kept"}
    path = write(tmp_path / "1.json", {**entry, "overall_latency_ms": 12})
    profile = load_priors([path])["a"].prior.profile
    assert (profile.ema_quality, profile.total_calls) == (0.88, 0)
    assert profile.task_stats["code"].ema_quality == 0.3


@pytest.mark.parametrize("content", [None, "", " \n", "[]"])
def test_a_file_that_is_missing_or_empty_is_silent(
    tmp_path: Path, content: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "1.json"
    if content is not None:
        write(path, content)
    assert scores([path]) == {}
    assert caplog.records == []


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "7",
        "\ud800",
        '{"model_id": "a"}',
        '{"model_id": "a", "overall_score": 1.5}',
        '[{"model_id": "a", "overall_score": 0.5}, 3]',
    ],
)
def test_a_broken_file_is_a_warning_that_names_it_and_the_others_count(
    tmp_path: Path, content: str, caplog: pytest.LogCaptureFixture
) -> None:
    good = write(tmp_path / "good.json", {"model_id": "b", "overall_score": 0.5})
    broken = tmp_path / "broken.json"
    broken.write_bytes(content.encode(errors="surrogatepass"))
    assert scores([broken, good, tmp_path]) == {"b": 0.5}  # and a directory is broken, too
    warnings = [record for record in caplog.records if record.levelno == logging.WARNING]
    assert str(broken) in warnings[0].getMessage()
    assert len(warnings) == 2
