"""Talk to a process of one's own as an app would, and see whether the wire is in order."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence

import anyio

#: How long the process may take for all of it, in seconds.
CHECK_TIMEOUT_S = 10.0

#: What is sent, and what answers it: the id, and a member that the answer has.
_SAID = (
    (
        b'{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocol_version":1}}',
        1,
        "result",
    ),
    (b"this is no message", None, "error"),
    (b'{"jsonrpc":"2.0","id":2,"method":"ping","params":{}}', 2, "result"),
)


async def check_wire(command: Sequence[str]) -> str:
    """One line for people: what is wrong with the wire of a process, or that nothing is.

    Args:
        command: What starts the process.
    """
    started = time.monotonic()
    said = b"".join(line + b"\n" for line, _, _ in _SAID)
    try:
        with anyio.fail_after(CHECK_TIMEOUT_S):
            process = await anyio.run_process(command, input=said, check=False)
    except TimeoutError:
        return f"broken: no end after {CHECK_TIMEOUT_S:.0f} s; its log on standard error says more"
    problem = _problem(process.stdout)
    if problem or process.returncode:
        return f"broken: {problem or f'exit code {process.returncode}'}"
    elapsed_ms = (time.monotonic() - started) * 1000
    return f"ok - started, answered, survived bad bytes and ended in {elapsed_ms:.0f} ms"


def _problem(output: bytes) -> str:
    """What is wrong with what the process wrote; empty when nothing is."""
    answers: list[dict[str, object]] = []
    for line in output.splitlines():
        try:
            answers.append(json.loads(line))
        except ValueError:
            return f"something else than messages is written to standard output: {line[:80]!r}"
    for said, request_id, member in _SAID:
        answered = [each for each in answers if each.get("id") == request_id and member in each]
        if len(answered) != 1:
            return f"{len(answered)} answers to {said.decode()}"
    return ""
