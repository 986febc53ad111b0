"""Benchmark scores as a first opinion of models that were never used here.

Up to three files are read when the process starts, and a later one wins for a model that several
of them name. A prior is an opinion on a model without any observation; it never changes one.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec
from msgspec import UNSET, Struct, UnsetType

from car_rpc.wire.base import NonNegativeFloat, UnitInterval
from car_rpc.wire.outcomes import ModelProfile, TaskStats

#: What such a file is called where it is looked for.
FILE_NAME = "benchmark_priors.json"

#: Environment variable that names another such file.
VARIABLE = "CAR_BENCHMARK_PRIORS_PATH"

logger = logging.getLogger(__name__)


class BenchmarkPrior(Struct, frozen=True, kw_only=True):
    """What a benchmark found of a model: an entry of a file.

    Attributes:
        model_id: Id of the model.
        overall_score: Its quality, from 0 to 1.
        overall_latency_ms: Its usual latency, in milliseconds.
        task_scores: Its quality by task.
        task_latency_ms: Its latency by task, in milliseconds.
    """

    model_id: str
    overall_score: UnitInterval
    overall_latency_ms: NonNegativeFloat | UnsetType = UNSET
    task_scores: dict[str, UnitInterval] = {}
    task_latency_ms: dict[str, NonNegativeFloat] = {}

    @property
    def profile(self) -> ModelProfile:
        """The profile that it stands for, without an observation."""
        return ModelProfile(
            model_id=self.model_id,
            ema_quality=self.overall_score,
            task_stats={
                task: TaskStats(ema_quality=score) for task, score in self.task_scores.items()
            },
        )


class LoadedPrior(NamedTuple):
    """A prior and the file that it came from."""

    prior: BenchmarkPrior
    source_path: Path


def prior_paths(models_dir: Path, environ: Mapping[str, str]) -> list[Path]:
    """The files to read, in this order, each once."""
    paths = [models_dir / FILE_NAME, models_dir.parent / FILE_NAME]
    named = environ.get(VARIABLE, "").strip()
    if named:
        paths.append(Path(named))
    return list(dict.fromkeys(paths))


def load_priors(paths: Iterable[Path]) -> dict[str, LoadedPrior]:
    """The priors of all files by model id.

    A file that is missing or empty says nothing, and one that is broken is only warned of.
    """
    loaded: dict[str, LoadedPrior] = {}
    for path in paths:
        try:
            entries = _decoded(path.read_bytes().strip())
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, msgspec.DecodeError) as error:
            logger.warning("the benchmark priors in %s are ignored: %s", path, error)
            continue
        loaded |= {prior.model_id: LoadedPrior(prior, path) for prior in entries}
    return loaded


def _decoded(text: bytes) -> list[BenchmarkPrior]:
    if not text:
        return []
    if text.startswith(b"["):
        return msgspec.json.decode(text, type=list[BenchmarkPrior])
    return [msgspec.json.decode(text, type=BenchmarkPrior)]
