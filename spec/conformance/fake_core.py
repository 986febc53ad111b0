#!/usr/bin/env python3
"""Play the core of a dialogue against whatever started this process: a binding under test.

    python spec/conformance/fake_core.py DIALOGUE [arguments of car-rpc, which are ignored]

Exit codes: what the dialogue says, by default 0 after `shutdown` and `exit` or the end of input,
and 1 after `exit` alone; 70 when the client did not say what the dialogue says, with one line on
standard error that tells the difference; 64 when the dialogue cannot be read.
"""

from __future__ import annotations

import json
import os
import sys

# `python -I` leaves the script's own folder out.
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))  # noqa: PTH100, PTH120 - takes time

from dialogue import STEP_S, Dialogue, FormatError, Step
from player import Channel, Ended, Mismatch, Player

TYPE_CHECKING = False  # type checkers take it for the one of typing, which takes time to import
if TYPE_CHECKING:
    from typing import Any

#: Exit codes of <sysexits.h>.
EX_USAGE = 64
EX_SOFTWARE = 70

#: What `initialize` is answered with when the handshake is not written down.
SERVER = {
    "protocol_version": 1,
    "spec": {"major": 1, "minor": 0, "hash": "0000000000000000"},
    "server_info": {"name": "fake-core", "version": "1"},
    "session_id": "ses_0000000000000000",
    "capabilities": {
        "methods": [
            "$/cancelRequest",
            "detokenize",
            "embed",
            "eventlog.query",
            "exit",
            "generate",
            "initialize",
            "models.get",
            "models.list",
            "models.register",
            "models.unregister",
            "ping",
            "runner.event",
            "runner.register",
            "runner.unregister",
            "shutdown",
            "tokenize",
        ],
        "backends": {
            "delegated": {"available": True},
            "fake": {"available": True},
            "local": {"available": False, "reason": "this core plays a dialogue"},
        },
        "limits": {
            "max_message_bytes": 67108864,
            "max_depth": 128,
            "max_in_flight": 1024,
            "runner_buffer_bytes": 8388608,
            "max_batch": 1000,
        },
    },
}

PONG = {"in_flight": 1, "startup_ms": {}}
ACKNOWLEDGED = {"emitted": True, "closed": False}


class Core(Player):
    """The core's side. A client may take its time: it may be started by a slow machine."""

    side = "core"
    other = "client"
    patience = 3.0

    def __init__(self, dialogue: Dialogue, channel: Channel) -> None:
        super().__init__(dialogue, channel)
        self.exit_code = 0

    def open(self) -> None:
        """Answer `initialize`."""
        params = {"protocol_version": SERVER["protocol_version"]}
        request = {"id": "$_initialize", "method": "initialize", "params": params}
        self.expect([[Step({"client": request}, 0)]], STEP_S)
        self.say(self.variables.fill({"id": "$_initialize", "result": SERVER}))

    def end(self) -> None:
        """Wait for `shutdown` and `exit`, or for the end of input."""
        asked = False
        while (message := self._hear_or_end()) is not None:
            method = message.get("method") if isinstance(message, dict) else None
            if method == "exit":
                self.exit_code = 0 if asked else 1
                return
            if method == "shutdown" and "id" in message:
                asked = True
                self.say({"id": message["id"], "result": None})
                self.flush()
            # A cancel may cross the answer that it comes too late for.
            elif method != "$/cancelRequest" and not self.aside(message):
                self.fail(None, json.dumps(message))

    def act(self, step: Step) -> None:
        """Notice what the client does; `stall_ms`, `never` and a closed output show nothing."""
        if step.kind == "exit":
            self.exit_code = step.value
        elif step.kind == "close" and step.value == "stdin":
            while (message := self._hear_or_end()) is not None:
                if not self.aside(message):
                    self.fail(step, json.dumps(message))

    def encode(self, message: Any) -> bytes:
        """What a core writes never looks like several lines to any reader."""
        payload = super().encode(message)
        for line_break in "\u2028\u2029\u0085":
            payload = payload.replace(line_break.encode(), b"\\u%04x" % ord(line_break))
        return payload

    def aside(self, message: Any) -> bool:
        """Answer a ping: a binding may look at any time whether its core is there."""
        if not isinstance(message, dict) or message.get("method") != "ping" or "id" not in message:
            return False
        self.say({"id": message["id"], "result": PONG})
        self.flush()
        return True

    def difference(self, pattern: Any, message: Any) -> str | None:
        """A runner may send its events as requests where notifications are written."""
        if not (
            isinstance(message, dict)
            and message.get("method") == pattern.get("method") == "runner.event"
            and "id" in message
            and "id" not in pattern
        ):
            return super().difference(pattern, message)
        request_id = message["id"]
        event = {key: value for key, value in message.items() if key != "id"}
        found = super().difference(pattern, event)
        if found is None:
            self.say({"id": request_id, "result": ACKNOWLEDGED})
        return found

    def _hear_or_end(self) -> Any:
        try:
            return self.hear(self.deadline(STEP_S))
        except Ended:
            return None


def main(arguments: list[str]) -> int:
    """Play the dialogue that is named first; returns the exit code."""
    if not arguments:
        sys.stderr.write("usage: fake_core.py DIALOGUE [ARGUMENT ...]\n")
        return EX_USAGE
    try:
        dialogue = Dialogue(arguments[0])
    except (OSError, ValueError, FormatError) as error:
        sys.stderr.write(f"fake core: {arguments[0]}: {error}\n")
        return EX_USAGE
    fixed = dialogue.arguments[1] if dialogue.arguments[:1] == ["--framing"] else None
    core = Core(dialogue, Channel(0, 1, fixed))
    try:
        core.play()
    except Mismatch as mismatch:
        sys.stderr.write(f"fake core: {mismatch}\n")
        return EX_SOFTWARE
    return core.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
