"""Another process shows what requests got, without the app, the network or a model."""

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.process.conftest import (
    IN_WORKER,
    ROOT,
    WAIT_S,
    Core,
    StartCore,
    event,
    is_response,
    same,
)

pytestmark = pytest.mark.process

STORY = "Once upon a time there was a bird "
CHUNK = {"choices": [{"index": 0, "delta": {"content": "from afar"}, "finish_reason": "stop"}]}
VECTORS = {"data": [{"index": 0, "embedding": [0.6, 0.8]}], "usage": {"prompt_tokens": 1}}


class Upstream(BaseHTTPRequestHandler):
    """Answers like OpenAI's API."""

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        is_chat = self.path.endswith("/chat/completions")
        chunks = f"data: {json.dumps(CHUNK)}\n\ndata: [DONE]\n\n"
        body = (chunks if is_chat else json.dumps(VECTORS)).encode()
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream" if is_chat else "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def upstream() -> Iterator[ThreadingHTTPServer]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Upstream) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def fill(core: Core, upstream: ThreadingHTTPServer) -> list[Any]:
    """Requests of all kinds; returns their ids, each answered."""
    endpoint = f"http://127.0.0.1:{upstream.server_port}/v1"
    source = {"type": "openai_compat", "endpoint": endpoint, "model": "m"}
    core.register("far/chat:1", source, "generate")
    core.register("far/vectors:1", source, "embed")
    core.fake("t/echo:1", {"echo": True})
    core.fake("t/worker:1", IN_WORKER, event("from a worker"))
    core.fake("t/stall:1", event("so far"), {"stall": True})
    core.fake("t/fail:1", event("x"), {"fail": {"kind": "inference_failed", "message": "no"}})
    core.register("app/big:1", {"type": "delegated", "hint": "big"})
    core.call("runner.register")

    asked = [core.generate(model) for model in ("far/chat:1", "t/echo:1", "t/worker:1", "t/fail:1")]
    asked += [core.generate("nobody"), core.generate("t/echo:1", stream=False)]
    asked += [
        core.ask("embed", {"texts": ["a"], "model": "far/vectors:1"}),
        core.ask("classify", {"text": "a", "labels": ["a", "b"], "model": "t/echo:1"}),
        core.ask("rerank", {"query": "a", "documents": ["yes"], "model": "nobody"}),
        core.ask("outcomes.report", {"trace_id": "tr_none", "verdict": "accepted"}),
    ]
    cancelled = core.generate("t/stall:1")
    core.first_event(cancelled, "text_delta")
    core.cancel(cancelled)
    delegated = core.generate("app/big:1", conversation_id="talk")
    tell(core, STORY, {"error": {"code": -32000, "message": "lost", "data": {"status": 503}}})
    tell(core, "who sang.", {"result": {"stop_reason": "end_turn"}})
    asked += [cancelled, delegated]
    for each in asked:
        core.response(each)
    assert core.response(delegated)["result"]["recoveries"] == 1
    return asked


def tell(core: Core, text: str, end: dict[str, Any]) -> None:
    """Answer the next run of the app's own model."""
    done = {m["id"] for m in core.messages if m.get("method") == "runner.run"} & told
    run = core.wait_for(lambda m: m.get("method") == "runner.run" and m["id"] not in done)
    told.add(run["id"])
    delta = {"type": "text_delta", "text": text}
    core.notify("runner.event", {"call_id": run["params"]["call_id"], "event": delta})
    core.send({"jsonrpc": "2.0", "id": run["id"], **end})


told: set[str] = set()


def traces(core: Core, asked: list[Any]) -> dict[Any, str]:
    """The trace of each request; what it asked a model in words came behind it."""
    found: dict[Any, str] = {}
    for logged in core.call("eventlog.query", {"types": ["request"], "limit": 1000})["events"]:
        found.setdefault(logged["data"]["request_id"], logged["trace_id"])
    return {request_id: found[request_id] for request_id in asked}


def answer_of(core: Core, request_id: Any) -> str:
    (answer,) = [m for m in core.messages if is_response(m) and same(m["id"], request_id)]
    return json.dumps(answer.get("result", answer.get("error")))


def shown(core: Core, request_id: Any) -> str:
    return json.dumps([(each["seq"], each["event"]) for each in core.stream(request_id)])


def check(core: Core, before: Core, of: dict[Any, str]) -> None:
    """All of it is shown again, and nothing is written."""
    last_seq = core.call("eventlog.query", {"order": "desc", "limit": 1})["events"][0]["seq"]
    for then, trace_id in of.items():
        asked = {"trace_id": trace_id, "mode": "recorded", "stream": True}
        now = core.ask("replay.run", asked)
        answer = core.response(now)
        again = answer["result"]["result"] if "result" in answer else answer["error"]
        assert json.dumps(again) == answer_of(before, then)
        if before.stream(then):
            assert shown(core, now) == shown(before, then)
    new = core.call("eventlog.query", {"after_seq": last_seq})["events"]
    assert {each["type"] for each in new} <= {"session_start"}


def test_another_process_shows_all_that_requests_got_without_app_network_or_model(
    start_core: StartCore, upstream: ThreadingHTTPServer, tmp_path: Path
) -> None:
    told.clear()
    before = start_core(state_dir=tmp_path / "state")
    before.initialize()
    of = traces(before, fill(before, upstream))
    export = tmp_path / "log.jsonl"
    before.call("eventlog.export", {"format": "jsonl", "path": str(export)})
    before.close_stdin()
    before.wait()
    upstream.shutdown()
    upstream.server_close()

    core = start_core(state_dir=tmp_path / "state")
    core.initialize()
    check(core, before, of)

    # And from an export, in another log.
    other = tmp_path / "other"
    command = [sys.executable, "-m", "car_rpc", "log", "import", str(export)]
    subprocess.run([*command, "--state-dir", str(other)], cwd=ROOT, check=True, timeout=WAIT_S)
    imported = start_core(state_dir=other)
    imported.initialize()
    check(imported, before, of)

    purged = next(iter(of.values()))
    core.call("eventlog.purge", {"trace_id": purged})
    error = core.fail("replay.run", {"trace_id": purged, "mode": "recorded"})
    assert error["data"]["kind"] == "not_found"


def test_a_replay_is_readable_on_the_command_line(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    trace_id = core.call("generate", {"model": "t/echo:1", "prompt": "Hello there"})["trace_id"]

    def replay(*arguments: str) -> str:
        command = [sys.executable, "-m", "car_rpc", "replay", trace_id, *arguments]
        return subprocess.check_output(
            [*command, "--state-dir", str(core.state_dir)], cwd=ROOT, text=True, timeout=WAIT_S
        )

    assert replay() == "Hello there\n"
    assert json.loads(replay("--json"))["result"]["text"] == "Hello there"
    core.fake("t/echo:1", event("otherwise"))
    assert replay("--mode", "rerun").splitlines()[:5] == [
        "otherwise",
        "differences: 1",
        "$.text",
        '  - "Hello there"',
        '  + "otherwise"',
    ]
