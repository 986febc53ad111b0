"""The engine of the worker that downloads; one process does one download and is then stopped."""

from __future__ import annotations

import errno
import os
import threading
import time
from typing import TYPE_CHECKING

# Its bars would go to standard error, which is the log; and it asks for files, nothing else.
os.environ["HF_HUB_DISABLE_PROGRESS_BARS"] = "1"
os.environ["HF_HUB_VERBOSITY"] = "critical"  # it writes addresses, signatures included
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["HF_HUB_DISABLE_UPDATE_CHECK"] = "1"

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
)

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.worker import FromHub, FromUrl, Load, Loaded, Pull
from car_rpc.workers.hub.sources import from_hub, from_path, from_url

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.job import Job

#: How often it says how far it is, in seconds.
_NOTE_S = 0.2


class HubEngine:
    """Downloads in a thread, so that a slow network is no hanging engine."""

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """There is nothing to load."""
        return Loaded(context_length=0, engine=f"huggingface-hub {huggingface_hub.__version__}")

    def start(self, job: Job) -> None:
        """Begin a download."""
        request = job.request
        if not isinstance(request, Pull):
            raise unsupported_mode(type(request).__name__.lower(), "hub", "it only downloads")
        threading.Thread(target=self._run, args=(job, request), daemon=True).start()

    def step(self) -> bool:
        """Nothing to do in the engine's own thread."""
        return False

    def reset(self) -> None:
        """Nothing to forget."""

    def _run(self, job: Job, request: Pull) -> None:
        last = 0.0

        def note(done_bytes: int, total_bytes: int) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last >= _NOTE_S or done_bytes == total_bytes:
                last = now
                job.progress(done_bytes, total_bytes)

        try:
            source = request.source
            if isinstance(source, FromHub):
                pulled = from_hub(source, note)
            elif isinstance(source, FromUrl):
                pulled = from_url(source, note)
            else:
                pulled = from_path(source, note)
        except Exception as error:  # noqa: BLE001 - whatever it was, the core must hear of it
            job.fail(failure(error))
            return
        job.reply(pulled)


def failure(error: Exception) -> CarError:
    """What went wrong, for people. No address is repeated: it may hold a signature."""
    match error:
        case CarError():
            found = error
        case OfflineModeIsEnabled():
            found = CarError(
                "download_failed",
                "HF_HUB_OFFLINE forbids downloads; unset it, or import the file (`from_path` of"
                " `models.pull`, `--from` of `car-rpc models pull`)",
                retryable=False,
            )
        case GatedRepoError():
            found = CarError(
                "unauthorized",
                "the model's owner wants to be asked: accept the conditions on the model's page,"
                " then set HF_TOKEN to a token of your account",
            )
        case RepositoryNotFoundError():
            found = CarError(
                "not_found",
                "the hub has no such repository, or it is private and HF_TOKEN does not open it",
            )
        case HfHubHTTPError():
            found = CarError("download_failed", f"the server answered {error.response.status_code}")
        case OSError(errno=errno.ENOSPC | errno.EDQUOT):
            found = CarError("io_error", "the disk is full; free some, then pull again to go on")
        case PermissionError():
            found = CarError("io_error", f"may not write {error.filename}; check its permissions")
        case _:
            found = CarError(
                "download_failed",
                f"the server cannot be reached, or the connection broke ({type(error).__name__});"
                " check the network and HF_ENDPOINT, then pull again: what has come is kept",
            )
    return found


def make_engine() -> HubEngine:
    """What the worker's runtime calls."""
    return HubEngine()
