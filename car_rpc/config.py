"""Settings of a process, made once from the command line and the environment."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

LogLevel: TypeAlias = Literal["debug", "info", "warning", "error"]
CassetteMode: TypeAlias = Literal["record", "replay", "auto", "strict"]
CassetteSpeed: TypeAlias = Literal["fast", "timed"]

#: Largest message by default, in bytes: a long prompt with a few inlined photographs.
DEFAULT_MAX_MESSAGE_BYTES = 64 * 1024 * 1024

#: Default of ``--drain-ms``: how long work may still finish when the app wants to go.
DEFAULT_DRAIN_MS = 2000


class CassetteSettings(NamedTuple):
    """A cassette, and what is done with it.

    Attributes:
        path: The file.
        mode: ``record`` runs all requests and writes them down, ``replay`` answers from the file
            and runs none, ``auto`` runs and adds those that are not there, ``strict`` answers only
            the requests of the file, in their order.
        speed: Whether what is replayed takes the time that it took.
    """

    path: Path
    mode: CassetteMode = "replay"
    speed: CassetteSpeed = "fast"

    @property
    def records(self) -> bool:
        """Whether requests are run, and recorded."""
        return self.mode in ("record", "auto")


class Settings(NamedTuple):
    """What ``car-rpc serve`` was asked for.

    Attributes:
        state_dir: Directory of the database (event log and registry).
        models_dir: Where model files are looked for and pulled to.
        framing: ``None`` lets the first byte of the input decide.
        allowed_paths: Roots below which message content may name files.
        parent_pid: Process whose death ends this one.
        max_message_bytes: Longest message accepted, in bytes.
        drain_ms: How long work may still finish after the input ended or ``shutdown``.
        log_level: Least severe level that goes to standard error.
        trace: File that gets a trace of the connection.
        config: The configuration file, which must be there; ``None`` is ``config.toml`` in the
            state directory, if it is there.
        cassette: Requests are answered from it or written to it.
    """

    state_dir: Path
    models_dir: Path
    framing: Literal["ndjson", "lsp"] | None = None
    allowed_paths: tuple[Path, ...] = ()
    parent_pid: int | None = None
    max_message_bytes: int = DEFAULT_MAX_MESSAGE_BYTES
    drain_ms: int = DEFAULT_DRAIN_MS
    log_level: LogLevel = "info"
    trace: Path | None = None
    config: Path | None = None
    cassette: CassetteSettings | None = None


def car_home(environ: dict[str, str] | None = None) -> Path:
    """``CAR_HOME``, or ``~/.car``: the default state directory; models lie in ``models/``."""
    from pathlib import Path  # noqa: PLC0415 - before the handshake nobody needs it

    chosen = (os.environ if environ is None else environ).get("CAR_HOME", "").strip()
    return Path(chosen).expanduser() if chosen else Path.home() / ".car"


def hub_cache(environ: dict[str, str] | None = None) -> Path:
    """Where the hub's own client keeps what it downloads.

    ``HF_HUB_CACHE``, else ``hub`` in ``HF_HOME``, by default ``~/.cache/huggingface`` (its
    documentation, "Environment variables").
    """
    from pathlib import Path  # noqa: PLC0415 - before the handshake nobody needs it

    values = dict(os.environ) if environ is None else environ
    if cache := values.get("HF_HUB_CACHE", "").strip():
        return Path(cache).expanduser()
    if home := values.get("HF_HOME", "").strip():
        return Path(home).expanduser() / "hub"
    base = values.get("XDG_CACHE_HOME", "").strip()
    return (Path(base) if base else Path.home() / ".cache") / "huggingface" / "hub"
