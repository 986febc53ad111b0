"""The vectors of `spec/conformance`: bytes into messages, and messages into what they are."""

import json
from pathlib import Path
from typing import Any

import pytest

from car_rpc.config import DEFAULT_MAX_MESSAGE_BYTES
from car_rpc.protocol.framing import Splitter
from car_rpc.protocol.messages import (
    Batch,
    Message,
    Notification,
    Request,
    Response,
    decode,
)
from car_rpc.protocol.salvage import recover_id
from spec.conformance.play import as_bytes

VECTORS = Path(__file__).parent.parent.parent / "spec" / "conformance" / "vectors"


def vectors(kind: str, *members: str) -> list[Any]:
    """All vectors of a kind, which have these members and no others."""
    found = []
    for path in sorted((VECTORS / kind).glob("*.json")):
        file = json.loads(path.read_text(encoding="utf-8"))
        assert set(file) == {"about", "vectors"}, path
        for vector in file["vectors"]:
            assert set(vector) <= {"name", "rules", *members}, vector["name"]
            found.append(pytest.param(vector, id=f"{path.stem}: {vector['name']}"))
    assert found, f"no vectors in {VECTORS / kind}"
    return found


# Framing


def split(vector: dict[str, Any], *chunks: bytes) -> list[Any]:
    """What the splitter makes of the chunks, in the terms of the vectors."""
    framing = vector.get("framing", "auto")
    splitter = Splitter(
        vector.get("max_message_bytes", DEFAULT_MAX_MESSAGE_BYTES),
        None if framing == "auto" else framing,
    )
    events = [event for chunk in chunks for event in splitter.receive(chunk)]
    if vector.get("end"):
        events += splitter.receive_eof()
    return [
        ("message", event.strip())
        if isinstance(event, bytes)
        else (event.kind, recover_id(event.prefix))
        for event in events
    ]


def expected(vector: dict[str, Any]) -> list[Any]:
    return [
        ("message", as_bytes(each["message"]).strip())
        if "message" in each
        else (each["error"], each["id"])
        for each in vector["output"]
    ]


FRAMING = vectors("framing", "framing", "max_message_bytes", "end", "input", "output")


@pytest.mark.parametrize("vector", FRAMING)
def test_bytes_give_the_same_messages_however_they_are_split(vector: dict[str, Any]) -> None:
    data = as_bytes(vector["input"])
    wanted = expected(vector)
    assert split(vector, data) == wanted
    assert split(vector, *(data[at : at + 1] for at in range(len(data)))) == wanted
    for at in range(len(data)):
        assert split(vector, data[:at], data[at:]) == wanted, f"split at {at}"


# Codec


def described(message: Message | Batch) -> dict[str, Any]:
    """A decoded message in the terms of the vectors."""
    match message:
        case Batch():
            return {"batch": [described(each) for each in message.messages]}
        case Request():
            request = {"id": message.id, "method": message.method}
            return {"request": {**request, "params": json.loads(message.params)}}
        case Notification():
            notification = {"method": message.method, "params": json.loads(message.params)}
            return {"notification": notification}
        case Response(error=None):
            return {"response": {"id": message.id, "result": json.loads(message.result)}}
        case Response(error=error):
            assert error is not None
            members = {"code": error.code, "message": error.message, "data": error.data}
            return {"response": {"id": message.id, "error": members}}
        case violation:
            return {"violation": {"kind": violation.error.kind, "id": violation.id}}


def same(wanted: Any, found: Any) -> bool:
    """Whether everything that is wanted is found, with its type."""
    if isinstance(wanted, dict):
        return isinstance(found, dict) and all(same(wanted[key], found.get(key)) for key in wanted)
    if isinstance(wanted, list):
        return len(wanted) == len(found) and all(map(same, wanted, found))
    return type(wanted) is type(found) and wanted == found


CODEC = vectors("codec", "message", "is")


@pytest.mark.parametrize("vector", CODEC)
def test_a_message_is_what_the_vector_says(vector: dict[str, Any]) -> None:
    found = described(decode(as_bytes(vector["message"])))
    assert [*found] == [*vector["is"]]
    assert same(vector["is"], found), found
