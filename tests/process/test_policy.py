"""Policies of real processes: what is refused never leaves them, by the pipe or by a socket."""

import socket
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest

from car_rpc.client import CarClient, RemoteError
from car_rpc.wire.policy import PolicyApproveParams, PolicyApproveResult
from tests.process.conftest import WAIT_S, Core, StartCore

pytestmark = pytest.mark.process

TOOL = {"type": "function", "function": {"name": "shell", "parameters": {"type": "object"}}}


class Socket:
    """A server that nobody is to talk to; notes who does, and hangs up."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"
        self.accepted = 0
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            with connection:
                if not connection.recv(1):
                    return
                self.accepted += 1

    def close(self) -> None:
        with socket.create_connection(self._server.getsockname()):
            pass  # which says nothing, and so ends the thread
        self._thread.join()
        self._server.close()


@pytest.fixture
def watched() -> Iterator[Socket]:
    watched = Socket()
    yield watched
    watched.close()


def runs(core: Core) -> list[Any]:
    return [each for each in core.messages if each.get("method") == "runner.run"]


def test_what_a_rule_refuses_never_leaves_the_process(core: Core, watched: Socket) -> None:
    core.call("runner.register")
    core.register("app/big:1", {"type": "delegated", "hint": "anthropic/big"})
    http = {"type": "openai_compat", "endpoint": watched.url, "model": "m"}
    core.register("cloud/big:1", http, "generate", "embed", "classify", "rerank")
    core.fake("here/small:1", {"echo": True})
    asked: list[tuple[str, dict[str, Any]]] = [
        *(("generate", {"model": m, "prompt": "hi"}) for m in ("app/big:1", "cloud/big:1")),
        ("generate", {"model": "app/big:1", "prompt": "hi", "stream": True, "tools": [TOOL]}),
        ("embed", {"model": "cloud/big:1", "texts": ["hi"]}),
        ("classify", {"model": "cloud/big:1", "text": "hi", "labels": ["a", "b"]}),
        ("rerank", {"model": "cloud/big:1", "query": "q", "documents": ["d"]}),
    ]
    by_models = {"action": "deny", "match": {"models": ["*/big:*"]}}
    for rule in (
        by_models,
        {"action": "deny", "match": {"providers": ["app", "cloud"]}},
        {"action": "require_approval", "match": {"providers": ["app", "cloud"]}},
    ):
        core.call("policy.set", {"rules": [{"id": "here", **rule}]})
        for method, params in asked:
            data = core.fail(method, params)["data"]
            assert (data["kind"], data["rule_id"]) == ("policy_denied", "here"), (method, rule)
        assert core.call("generate", {"prompt": "hi"})["model_used"] == "here/small:1"
    for rule in (
        {"action": "deny", "match": {"hints": ["anthropic/*"]}},
        {"action": "deny", "match": {"tools": ["sh*"]}},
        {"action": "require_local"},
        {"action": "cap", "max_cost_usd": 1},
    ):
        core.call("policy.set", {"rules": [{"id": "here", **rule}]})
        refused = core.fail(*asked[2])["data"]
        assert (refused["kind"], refused["rule_id"]) == ("policy_denied", "here"), rule
    assert runs(core) == []
    assert watched.accepted == 0

    core.call("policy.remove", {"id": "here"})  # and what would have come is seen by both
    stream = core.ask("generate", {"model": "app/big:1", "prompt": "hi"})
    run = core.wait_for(lambda m: m.get("method") == "runner.run")
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": "yes"}})
    assert core.response(stream)["result"]["text"] == "yes"
    core.response(core.ask("embed", {"model": "cloud/big:1", "texts": ["hi"]}))
    assert watched.accepted


def test_a_server_that_fails_is_not_followed_by_one_that_is_refused(
    core: Core, watched: Socket
) -> None:
    core.call("runner.register")
    core.register("app/big:1", {"type": "delegated", "hint": "big"})
    core.fake("here/small:1", {"fail": {"kind": "provider_error", "message": "down"}})
    core.call("policy.set", {"rules": [{"id": "no", "action": "require_local"}]})
    assert core.fail("generate", {"prompt": "hi"})["data"]["kind"] == "provider_error"
    assert runs(core) == []


def test_rules_of_the_file_and_of_another_window_hold(
    start_core: StartCore, tmp_path: Path
) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    (directory / "config.toml").write_text(
        '[[policy]]\nid = "short"\naction = "cap"\nmax_tokens = 3\n'
    )
    one, other = (start_core(state_dir=directory) for _ in range(2))
    for core in (one, other):
        core.initialize()
    no_embed = {"id": "no", "action": "deny", "match": {"methods": ["embed"]}}
    one.call("policy.set", {"rules": [no_embed]})
    listed = other.call("policy.list")["rules"]
    assert [(rule["id"], rule["origin"]) for rule in listed] == [
        ("short", "configuration"), ("no", "set"),
    ]  # fmt: skip
    model = one.register("here/v:1", {"type": "delegated"}, "embed")
    refused = other.fail("embed", {"model": model, "texts": ["x"]})
    assert refused["data"]["rule_id"] == "no"
    assert other.fail("policy.remove", {"id": "short"})["data"]["kind"] == "conflict"


async def test_the_python_client_asks_a_function_of_the_app(tmp_path: Path) -> None:
    asked: list[PolicyApproveParams] = []
    waiting, gone = anyio.Event(), anyio.Event()

    async def approve(question: PolicyApproveParams) -> PolicyApproveResult | bool:
        asked.append(question)
        match len(asked):
            case 1:
                return True
            case 2:
                return PolicyApproveResult(approved=False, reason="not today")
            case 3:
                raise ValueError("a secret")
            case _:
                waiting.set()
                try:
                    await anyio.sleep_forever()
                finally:
                    gone.set()
                return True

    arguments = ("--state-dir", str(tmp_path))
    async with CarClient.start(arguments=arguments, approve=approve) as car:
        source = {"type": "fake", "script": [{"echo": True}]}
        await car.register_model(
            {"id": "here/small:1", "source": source, "capabilities": ["generate"]}
        )
        rule = {"id": "ask", "action": "require_approval", "match": {"models": ["here/*"]}}
        await car.call("policy.set", {"rules": [rule]})
        assert (await car.generate(model="here/small:1", prompt="hi")).text == "hi"
        assert asked[0].subject.model == "here/small:1"
        for reason in ("not today", "the app's approval raised ValueError"):
            with pytest.raises(RemoteError) as caught:
                await car.generate(model="here/small:1", prompt="hi")
            assert (caught.value.kind, caught.value.data["reason"]) == ("policy_denied", reason)
        with anyio.fail_after(WAIT_S):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(car.generate, model="here/small:1", prompt="hi"))
                await waiting.wait()
                tasks.cancel_scope.cancel()
            await gone.wait()


async def test_a_python_client_without_a_function_is_not_asked(tmp_path: Path) -> None:
    async with CarClient.start(arguments=("--state-dir", str(tmp_path))) as car:
        rule = {"id": "ask", "action": "require_approval", "match": {"methods": ["models.list"]}}
        await car.call("policy.set", {"rules": [rule]})
        with pytest.raises(RemoteError) as caught:
            await car.call("models.list")
        assert "did not announce the capability `approve`" in caught.value.data["reason"]
