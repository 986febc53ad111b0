"""A cassette in a process: what is on it, and what goes onto it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime

import msgspec

from car_rpc import __version__
from car_rpc.cassette import file
from car_rpc.cassette.interaction import Interaction
from car_rpc.cassette.lines import Captured, Written, head_line, interaction, read
from car_rpc.cassette.tape import Place, Tape
from car_rpc.config import CassetteSettings
from car_rpc.engine.ports import IdSource
from car_rpc.errors import CarError
from car_rpc.eventlog.shapes import Secrets
from car_rpc.host.greeting import installed_backends

logger = logging.getLogger(__name__)

#: Most bytes that are recorded: more than anybody looks through, and less than what would hurt.
MAX_RECORDED_BYTES = 256 * 1024 * 1024


class Deck:
    """Plays a cassette, and records on it.

    Args:
        settings: The file, and what is done with it.
        session_id: Goes into what is recorded.
        secrets: What is replaced in it.
        now: The time of day, with a time zone.
        ids: Source of trace ids.

    Raises:
        CarError: ``io_error``: the file cannot be used.
    """

    def __init__(
        self,
        settings: CassetteSettings,
        session_id: str,
        secrets: Secrets,
        now: Callable[[], datetime],
        ids: IdSource,
    ) -> None:
        self.secrets = secrets
        self.now = now
        self._path = settings.path
        self._session_id = session_id
        self._ids = ids
        self._mode = settings.mode
        self._records = settings.records
        before = self._read()
        self._head = before.head
        known = [] if self._mode == "record" else before.interactions
        self.tape = Tape(known, self._mode, self._path.name)
        self._traces = {each.recorded.trace_id for each in known}
        #: What the file holds that is recorded anew.
        self._replaced = before.interactions if self._mode == "record" else []
        self._bytes = sum(len(line) for each in known for line in each.lines)

    def keep(self, place: Place, captured: Captured) -> None:
        """Put a request that was answered onto the cassette."""
        if self._bytes > MAX_RECORDED_BYTES:
            return
        trace_id = self._trace_of(captured)
        try:
            new = interaction(captured, self._session_id, trace_id, self.secrets)
        except Exception:  # a defect here must not cost the answer
            logger.exception("a `%s` was answered and could not be recorded", captured.asked.method)
            return
        self._bytes += sum(map(len, new.lines))
        if self._bytes > MAX_RECORDED_BYTES:
            logger.error("%s has %d bytes and takes no more", self._path, self._bytes)
            return
        place.interaction = self._as_before(new)

    def _trace_of(self, captured: Captured) -> str:
        """A trace of its own: that of its answer, unless that speaks of another one."""
        answer = captured.answer
        data = answer.data if isinstance(answer, CarError) else {}
        if captured.asked.method == "generate" and isinstance(answer, bytes):
            data = msgspec.json.decode(answer)
        trace_id = data.get("trace_id")
        if not isinstance(trace_id, str) or trace_id in self._traces:
            trace_id = self._ids.new("tr_")
        self._traces.add(trace_id)
        return trace_id

    def _as_before(self, new: Interaction) -> Interaction:
        """The same with its former times and trace, so that a new recording shows what changed."""
        for index, old in enumerate(self._replaced):
            if old.asked.key == new.asked.key and old.says_the_same(new):
                return self._replaced.pop(index)
        return new

    def eject(self) -> bool:
        """Write what was recorded; tells whether all that the mode promises was kept. Blocks."""
        if self._mode == "strict" and (self.tape.unused or self.tape.missed):
            logger.error(
                "%s: %d requests were not as recorded; these were not made: %s",
                self._path,
                self.tape.missed,
                ", ".join(self.tape.unused) or "none",
            )
            return False
        return not self._records or self._write()

    def _read(self) -> Written:
        lines = file.read_lines(self._path)
        if self._records:
            file.check_writable(self._path)
        elif lines is None:
            detail = f"there is no cassette {self._path}; record it with --cassette-mode record"
            raise CarError("io_error", detail, path=str(self._path))
        try:
            return read(lines or [], self._path.name, self.secrets)
        except CarError as error:
            if self._mode != "record":
                raise
            logger.warning("%s; it is replaced", error)
            return Written(None, [])

    def _write(self) -> bool:
        interactions = self.tape.interactions
        if self._mode == "auto" and not self.tape.has_grown:
            return True
        lines = [self._head_line(), *(line for each in interactions for line in each.lines)]
        try:
            file.write_lines(self._path, lines)
        except CarError as error:
            logger.error("%s", error)  # noqa: TRY400 - the user's to solve, no defect
            return False
        logger.info("%s holds %d requests", self._path, len(interactions))
        return True

    def _head_line(self) -> bytes:
        data = {"version": __version__, "backends": installed_backends()}
        if self._head is not None and (self._mode == "auto" or self._head[1] == data):
            return self._head[0]
        return head_line(self._session_id, self.now(), data)
