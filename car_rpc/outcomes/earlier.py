"""Profiles that another engine kept in a file, taken over when the process starts.

The file is a list of profiles in the form of `profiles.import`. What it says counts for a model of
which nothing was observed here, and each file is taken over once: a profile that was replaced since
stays as it is.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from pathlib import Path

import msgspec

from car_rpc.errors import CarError
from car_rpc.outcomes.profiles import taken_over
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.wire.outcomes import ImportedProfile

#: What the file is called.
FILE_NAME = "outcome_profiles.json"

#: A larger file holds no profiles: those of ten thousand models take a third of it.
MAX_BYTES = 16 * 1024 * 1024

logger = logging.getLogger(__name__)


def take_over(folders: Iterable[Path], store: OutcomeStore) -> None:
    """Take over the profiles of each folder's file, if there is one that is new.

    A file that cannot be read is only warned of: it must not keep the process from starting.
    """
    for folder in dict.fromkeys(folders):
        path = folder / FILE_NAME
        try:
            count = _take_over(path, store)
        except FileNotFoundError:
            continue
        except (OSError, UnicodeDecodeError, msgspec.DecodeError, CarError) as error:
            logger.warning("the profiles in %s are not taken over: %s", path, error)
            continue
        if count:
            logger.info("%d profiles were taken over from %s", count, path)


def _take_over(path: Path, store: OutcomeStore) -> int:
    size = path.stat().st_size
    if size > MAX_BYTES:
        raise CarError("io_error", f"it has {size} bytes, and {MAX_BYTES} are the most")
    text = path.read_bytes()
    given = msgspec.json.decode(text, type=list[ImportedProfile]) if text.strip() else []
    profiles = [taken_over(profile, f"$[{index}]") for index, profile in enumerate(given)]
    return store.take_over_once(profiles, hashlib.sha256(text).hexdigest())
