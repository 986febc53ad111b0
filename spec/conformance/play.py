#!/usr/bin/env python3
"""Play the client of dialogues against a core, each in a fresh process and state directory.

    python spec/conformance/play.py [DIALOGUE ...] [--framing ndjson|lsp|both] -- COMMAND ...

COMMAND starts the core, such as `car-rpc serve`; `--state-dir` and the dialogue's own arguments
are added to it. Without a DIALOGUE all those are played that test a core. Exit code 1 when one
fails.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))  # for whoever imports this file from elsewhere

from dialogue import (  # noqa: E402 - found only now
    FRAMINGS,
    STEP_S,
    Dialogue,
    FormatError,
    Step,
    Variables,
    as_bytes,
)
from player import Channel, Ended, Mismatch, Player  # noqa: E402 - found only now

__all__ = [
    "Dialogue",
    "FormatError",
    "Mismatch",
    "Variables",
    "as_bytes",
    "dialogues",
    "play",
]

#: Notifications that may come at any time.
ASIDES = ("$/progress", "log")

#: What some readers take for the end of a line, in UTF-8.
LINE_BREAKS = tuple(each.encode() for each in "\n\u2028\u2029\u0085")

#: How much of the core's standard error a report shows, in characters.
STDERR_CHARS = 2000


class Client(Player):
    """The client's side, with the core's process."""

    side = "client"
    other = "core"

    def __init__(
        self,
        dialogue: Dialogue,
        channel: Channel,
        process: subprocess.Popen[bytes],
        heard: list[Any] | None = None,
    ) -> None:
        super().__init__(dialogue, channel)
        self._process = process
        self._heard = [] if heard is None else heard
        self._may: list[Any] = [{"method": method} for method in ASIDES]
        self._never: list[Any] = []
        self._reads = True

    def open(self) -> None:
        """Shake hands."""
        params = {"protocol_version": 1, "client_info": {"name": "play.py", "version": "1"}}
        self._call("$_initialize", "initialize", params, {"protocol_version": 1})

    def end(self) -> None:
        """Shut the core down in the polite way."""
        self._call("$_shutdown", "shutdown", {}, None)
        self.say({"method": "exit", "params": {}})
        self.act(Step({"exit": 0}, 0))

    def act(self, step: Step) -> None:
        """Do what only a client does."""
        if step.kind in ("may", "never"):
            (self._may if step.kind == "may" else self._never).append(step.value)
        elif step.kind == "stall_ms":
            select.select([], [], [], step.value / 1000)
        elif step.kind == "close":
            self._reads = self._reads and step.value != "stdout"
            end = self._process.stdout if step.value == "stdout" else self._process.stdin
            if end is not None:
                end.close()
        elif step.kind == "exit":
            self.flush()
            self._expect_exit(step)

    def aside(self, message: Any) -> bool:
        """Skip what may come at any time."""
        return any(self._is(pattern, message) for pattern in self._may)

    def hear(self, deadline: float, step: Step | None = None) -> Any:
        """The next message; it must not be one that never comes."""
        message = super().hear(deadline, step)
        self._heard.append(message)
        if any(self._is(pattern, message) for pattern in self._never):
            self.fail(step, json.dumps(message), "which never comes")
        return message

    def read(self, payload: bytes, step: Step | None) -> Any:
        """A message, which no line reader would take for several."""
        if any(line_break in payload for line_break in LINE_BREAKS):
            self.fail(step, repr(payload[:1000]), "a raw line break")
        return super().read(payload, step)

    def _is(self, pattern: Any, message: Any) -> bool:
        return self.variables.difference(pattern, message, keep=False) is None

    def _call(self, request_id: str, method: str, params: Any, result: Any) -> None:
        self.say(self.variables.fill({"id": request_id, "method": method, "params": params}))
        answer = Step({"core": {"id": request_id, "result": result}}, 0)
        self.expect([[answer]], STEP_S)

    def _expect_exit(self, step: Step) -> None:
        deadline = self.deadline(step.within_s)
        with contextlib.suppress(Ended):
            while self._reads:
                message = self.hear(deadline)
                if not self.aside(message):
                    self.fail(step, json.dumps(message))
        try:
            code = self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.fail(step, "a process that goes on")
        else:
            if code != step.value:
                self.fail(step, f"exit code {code}")


def dialogues(side: str = "core") -> list[Path]:
    """The dialogues that test a side, by name."""
    found = sorted((HERE / "dialogues").glob("*.ndjson"))
    return [path for path in found if side in Dialogue(str(path)).sides]


def play(
    path: str | Path,
    command: Sequence[str],
    framing: str = "ndjson",
    env: Mapping[str, str] | None = None,
    *,
    patience: float = 1.0,
    state_dir: Path | None = None,
    heard: list[Any] | None = None,
) -> None:
    """Play one dialogue against a core of its own.

    Args:
        path: The dialogue.
        command: What starts the core.
        framing: ``ndjson`` or ``lsp``.
        env: The core's environment; that of this process by default.
        patience: What the times of all steps are multiplied with, for slow machines.
        state_dir: Where the core keeps what it remembers; by default a directory that is removed
            afterwards.
        heard: Gets every message of the core.

    Raises:
        Mismatch: The core did not say what the dialogue says.
        FormatError: The file is no dialogue.
    """
    dialogue = Dialogue(str(path))
    with tempfile.TemporaryDirectory(prefix="conformance-") as folder:
        state_dir = state_dir or Path(folder) / "state"
        arguments = ["--state-dir", str(state_dir), *dialogue.arguments]
        with (Path(folder) / "stderr").open("w+b") as stderr:
            with _running([*command, *arguments], stderr, env) as process:
                problem = _played(dialogue, process, framing, patience, heard)
            if problem is not None:
                stderr.seek(0)
                words = stderr.read().decode(errors="replace")[-STDERR_CHARS:]
                raise Mismatch(f"{problem} ({framing})" + (f"\n{words}" if words else ""))


def _played(
    dialogue: Dialogue,
    process: subprocess.Popen[bytes],
    framing: str,
    patience: float,
    heard: list[Any] | None,
) -> Mismatch | None:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the core was started without pipes")
    # A core never stops reading because nobody reads what it says.
    channel = Channel(process.stdout.fileno(), process.stdin.fileno(), framing, patient=False)
    client = Client(dialogue, channel, process, heard)
    client.patience = patience
    try:
        client.play()
    except Mismatch as mismatch:
        return mismatch
    return None


@contextlib.contextmanager
def _running(
    command: Sequence[str], stderr: IO[bytes], env: Mapping[str, str] | None
) -> Iterator[subprocess.Popen[bytes]]:
    """A process with pipes, gone when the block is left."""
    start = partial(
        subprocess.Popen[bytes],
        command,
        bufsize=0,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=stderr,
        env=env,
    )
    try:
        started = start()
    except OSError as error:
        if error.errno != errno.EFAULT:
            raise
        # A kernel that is moving pages may fail to read the arguments, once in thousands of starts.
        started = start()
    with started as process:
        try:
            yield process
        finally:
            process.kill()


def main(arguments: Sequence[str]) -> int:
    """Play what the command line names; returns the exit code."""
    own, separator, command = _split(arguments)
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("dialogues", nargs="*", type=Path, metavar="DIALOGUE")
    parser.add_argument("--framing", choices=(*FRAMINGS, "both"), default="both")
    parser.add_argument(
        "--patience", type=float, default=1.0, metavar="FACTOR", help="for slow machines"
    )
    options = parser.parse_args(own)
    if not separator or not command:
        parser.error("the command that starts the core is missing: -- COMMAND ...")
    wanted = FRAMINGS if options.framing == "both" else (options.framing,)
    failed = played = 0
    for path in options.dialogues or dialogues():
        for framing in (each for each in Dialogue(str(path)).framings if each in wanted):
            played += 1
            try:
                play(path, command, framing, patience=options.patience)
                print(f"ok    {path.stem} {framing}")
            except Mismatch as mismatch:
                failed += 1
                print(f"FAIL  {mismatch}")
    print(f"{played - failed} of {played} passed")
    return 1 if failed else 0


def _split(arguments: Sequence[str]) -> tuple[list[str], bool, list[str]]:
    words = [*arguments]
    if "--" not in words:
        return words, False, []
    at = words.index("--")
    return words[:at], True, words[at + 1 :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
