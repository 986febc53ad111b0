"""What all tests share: how much they try, and how random tests choose."""

import gc
import os
from collections.abc import Callable, Generator

import pytest
from hypothesis import HealthCheck, settings

# What the machine has downloaded for others is none of the tests' business.
os.environ["HF_HUB_CACHE"] = "/nonexistent"

# Numpy's threads wait for each other, which takes forty times as long where others are at work.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

SOAK = os.environ.get("CAR_RPC_SOAK") == "1"

settings.register_profile("test", max_examples=100, deadline=None, derandomize=True, database=None)
settings.register_profile(
    "soak", max_examples=5000, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("soak" if SOAK else "test")


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Let the collector of garbage pass over the tests: there are many, and all of them stay."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session")
def proof_count() -> Callable[[int, int], int]:
    """Say how often to repeat a proof: `proof_count(small, full)`.

    `make test` repeats it `small` times, which shows that it works; `make soak` repeats it `full`
    times, which is the number the project claims.
    """

    def choose(small: int, full: int) -> int:
        return full if SOAK else small

    return choose
