"""pygls's JSON-RPC server without the language features."""

from typing import Any

from pygls.protocol import JsonRPCProtocol, default_converter
from pygls.server import JsonRPCServer

server = JsonRPCServer(JsonRPCProtocol, default_converter)


@server.feature("ping")
def ping(params: Any) -> dict[str, Any]:
    return {}


@server.feature("echo")
def echo(params: Any) -> dict[str, Any]:
    return {"text": params.text}


@server.feature("stream")
def stream(params: Any) -> dict[str, Any]:
    for seq in range(params.count):
        event = {"type": "text_delta", "text": params.text}
        server.protocol.notify("event", {"request_id": 1, "seq": seq, "event": event})
    return {}


server.start_io()
