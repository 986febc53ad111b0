"""The dialogues notice what they are there for: each broken core fails the one that is named."""

import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from spec.conformance.play import Mismatch, play
from tests.spec.mutants import MUTANTS, Mutant

pytestmark = pytest.mark.process

MUTANTS_PY = Path(__file__).with_name("mutants.py")
DIALOGUES = Path(__file__).parent.parent.parent / "spec" / "conformance" / "dialogues"

#: Plays at once: most of each is waiting.
WORKERS = 3

#: Said to the mutants so that the whole connection is theirs, from its first byte.
ARGUMENTS = ("serve", "--framing", "auto")


def start(pool: ThreadPoolExecutor, name: str, mutant: Mutant) -> Future[None]:
    dialogue = DIALOGUES / f"{mutant.dialogue}.ndjson"
    return pool.submit(
        play, dialogue, (sys.executable, str(MUTANTS_PY), name, *ARGUMENTS), mutant.framing
    )


@pytest.fixture(scope="module")
def plays(request: pytest.FixtureRequest) -> Iterator[dict[str, Future[None]]]:
    """The dialogue of each selected mutant, a few at once."""
    own = (item for item in request.session.items if item.path == request.path)
    chosen = [item.callspec.params["name"] for item in own if "plays" in item.fixturenames]
    with ThreadPoolExecutor(WORKERS) as pool:
        yield {name: start(pool, name, MUTANTS[name]) for name in chosen}
        pool.shutdown(cancel_futures=True)


@pytest.mark.parametrize("name", MUTANTS)
def test_a_broken_core_is_noticed(plays: dict[str, Future[None]], name: str) -> None:
    with pytest.raises(Mismatch) as mismatch:
        plays[name].result()
    first, *_ = str(mismatch.value).splitlines()
    assert first.startswith(MUTANTS[name].dialogue)
    # It started, and failed where it is broken.
    assert ("$_initialize" in first) == MUTANTS[name].at_handshake, mismatch.value


def test_a_core_that_is_not_broken_is_not(tmp_path: Path) -> None:
    command = (sys.executable, str(MUTANTS_PY), "none", *ARGUMENTS)
    for dialogue in ("generate-stream", "runner-cancel-awaited"):
        play(DIALOGUES / f"{dialogue}.ndjson", command)
