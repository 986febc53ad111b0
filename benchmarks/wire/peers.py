"""The peers: how each is started, and how it is asked for the same things."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.wire.client import Framing

ROOT = Path(__file__).parents[2]
SERVERS = Path(__file__).parent / "servers"
VENV = ROOT / "benchmarks" / ".venv"

#: The text of one event: what a model sends for one token, roughly.
PIECE = " little"


class Streaming(NamedTuple):
    """How a peer streams.

    Attributes:
        events: Events of one measurement; slow peers get fewer.
        ask: The request for a stream of so many events.
        prepare: What must be asked before.
        relayed: The events come from the client, as those of an app's own model do.
    """

    events: int
    ask: Callable[[int, int], bytes]
    prepare: Sequence[bytes] = ()
    relayed: bool = False


class Peer(NamedTuple):
    """A program that speaks JSON-RPC on its standard input and output.

    Attributes:
        title: What it is.
        command: How to start it.
        framing: Its framing.
        hello: Its first request, the one whose answer ends the start.
        ping: Its cheapest request, by id.
        echo: A request that brings a text there and back; ``None`` where it refuses large ones.
        streams: Its streams, by name.
        prepare: What it must be told between the first request and the rest.
        env: Variables of its environment.
    """

    title: str
    command: Sequence[str]
    framing: Framing
    hello: bytes
    ping: Callable[[int], bytes]
    echo: Callable[[int, str], bytes] | None
    streams: dict[str, Streaming]
    prepare: Sequence[bytes] = ()
    env: dict[str, str] = {}  # noqa: RUF012 - never changed


def request(request_id: int, method: str, params: Any) -> bytes:
    """A request."""
    message = {"jsonrpc": "2.0", "id": request_id, "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode()


def notification(method: str, params: Any) -> bytes:
    """A notification."""
    message = {"jsonrpc": "2.0", "method": method, "params": params}
    return json.dumps(message, separators=(",", ":")).encode()


def ping(request_id: int) -> bytes:
    """The request that most peers know."""
    return b'{"jsonrpc":"2.0","id":%d,"method":"ping","params":{}}' % request_id


def _car_rpc(python: str, state_dir: Path, events: int) -> Peer:
    def register(model_id: str, source: dict[str, Any]) -> bytes:
        model = {"id": model_id, "capabilities": ["generate"], "source": source}
        return request(1, "models.register", {"model": model})

    def generate(model_id: str) -> Callable[[int, int], bytes]:
        params = {"model": model_id, "prompt": "Hello", "stream": True}
        return lambda request_id, _: request(request_id, "generate", params)

    def scripted(*script: dict[str, Any]) -> dict[str, Any]:
        return {"type": "fake", "script": list(script)}

    flood = {"repeat": events, "emit": {"type": "text_delta", "text": PIECE}}
    return Peer(
        "car-rpc",
        [python, "-P", "-m", "car_rpc", "serve", "--state-dir", str(state_dir)],
        "ndjson",
        request(0, "initialize", {"protocol_version": 1}),
        ping,
        lambda request_id, text: request(
            request_id, "generate", {"model": "bench/echo:1", "prompt": text}
        ),
        {
            "scripted": Streaming(
                events,
                generate("bench/flood:1"),
                [register("bench/flood:1", scripted(flood))],
            ),
            "relayed": Streaming(
                events,
                generate("bench/app:1"),
                [
                    register("bench/app:1", {"type": "delegated", "hint": "app"}),
                    request(2, "runner.register", {}),
                ],
                relayed=True,
            ),
        },
        [register("bench/echo:1", scripted({"echo": True}))],
        {"PYTHONPATH": str(ROOT)},
    )


def _plain(title: str, command: Sequence[str], framing: Framing, events: int) -> Peer:
    """A peer whose methods are ours to choose: ``ping``, ``echo`` and ``stream``."""

    def stream(request_id: int, count: int) -> bytes:
        return request(request_id, "stream", {"count": count, "text": PIECE})

    return Peer(
        title,
        command,
        framing,
        ping(0),
        ping,
        lambda request_id, text: request(request_id, "echo", {"text": text}),
        {"scripted": Streaming(events, stream)},
    )


def _mcp(title: str, command: Sequence[str], events: int, *, large: bool) -> Peer:
    def tool(request_id: int, name: str, arguments: Any) -> bytes:
        params = {"name": name, "arguments": arguments, "_meta": {"progressToken": 1}}
        return request(request_id, "tools/call", params)

    hello = {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"},
    }
    return Peer(
        title,
        command,
        "ndjson",
        request(0, "initialize", hello),
        ping,
        (lambda request_id, text: tool(request_id, "echo", {"text": text})) if large else None,
        {
            "scripted": Streaming(
                events,
                lambda request_id, count: tool(
                    request_id, "stream", {"count": count, "text": PIECE}
                ),
            )
        },
        [notification("notifications/initialized", {})],
    )


def _acp(title: str, command: Sequence[str], events: int) -> Peer:
    def prompt(request_id: int, count: int) -> bytes:
        blocks = [{"type": "text", "text": f"{count} {PIECE}"}]
        return request(request_id, "session/prompt", {"sessionId": "s1", "prompt": blocks})

    return Peer(
        title,
        command,
        "ndjson",
        request(0, "initialize", {"protocolVersion": 1}),
        lambda request_id: request(request_id, "_ping", {}),
        lambda request_id, text: request(request_id, "_echo", {"text": text}),
        {"scripted": Streaming(events, prompt)},
        [request(1, "session/new", {"cwd": "/", "mcpServers": []})],
    )


def own_peers(state_dir: Path, python: str = sys.executable, events: int = 20_000) -> list[Peer]:
    """The process itself, and the floor below it: they need no installation."""
    floor = [python, "-P", str(SERVERS / "floor.py")]
    return [
        _car_rpc(python, state_dir, events),
        _plain("asyncio + msgspec (floor)", floor, "ndjson", events),
    ]


def all_peers(state_dir: Path) -> list[Peer]:
    """Everybody. :mod:`benchmarks.wire.install` must have run."""
    python = str(VENV / "bin" / "python")

    def script(name: str) -> list[str]:
        return [python, "-P", str(SERVERS / name)]

    return [
        *own_peers(state_dir, python),
        _plain("vscode-jsonrpc", ["node", str(SERVERS / "vscode_jsonrpc.js")], "lsp", 20_000),
        _mcp("MCP TypeScript", ["node", str(SERVERS / "mcp_typescript.mjs")], 20_000, large=False),
        _mcp("MCP Python", script("mcp_python.py"), 1000, large=True),
        _plain("pygls", script("pygls_server.py"), "lsp", 5000),
        _acp("ACP Python", script("acp_python.py"), 5000),
    ]
