"""Whatever an app asks, in whatever order: for each request a replay sends what was sent."""

import asyncio
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from car_rpc.config import CassetteMode
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import scripted_model
from tests.conftest import SOAK
from tests.host.conftest import MODELS
from tests.host.test_double import DoubleApp, model

text = st.sampled_from(["", "one", "one two", "\u2028\N{GRINNING FACE}", "x" * 300])
fails = scripted_model(
    "test/fails:a",
    [{"emit": {"type": "text_delta", "text": "so "}}, {"fail": {"kind": "unauthorized"}}],
)
calls = scripted_model(
    "test/calls:a",
    [
        {"emit": {"type": "tool_call_start", "index": 0, "id": "c", "name": "f"}},
        {"emit": {"type": "tool_call_delta", "index": 0, "id": "c", "arguments_delta": '{"a":1}'}},
        {"emit": {"type": "usage", "prompt_tokens": 3, "completion_tokens": 4}},
    ],
)
EVERY_MODEL = [*MODELS, fails, calls]

generate = st.fixed_dictionaries(
    {"prompt": text, "model": st.sampled_from(["echo", "calls", "fails", "test/new:a", "nobody"])},
    optional={
        "stream": st.booleans() | st.just("yes"),
        "client_ref": text,
        "params": st.fixed_dictionaries({"temperature": st.sampled_from([0, 0.0, 1, "hot"])}),
        "privacy": st.sampled_from(["metadata", "full"]),
        "progress_token": st.integers(0, 3),
    },
)
requests = st.one_of(
    st.tuples(st.just("generate"), generate),
    st.tuples(st.just("generate"), generate),
    st.tuples(st.just("models.get"), st.just({"model": "test/new:a"})),
    st.tuples(st.just("models.register"), st.just({"model": model()})),
    st.tuples(st.just("models.unregister"), st.just({"model": "test/new:a"})),
    st.tuples(st.sampled_from(["runner.register", "runner.unregister"]), st.just({})),
    st.tuples(st.sampled_from(["embed", "tokenize", "no.such"]), st.just({"texts": [1]})),
    st.tuples(st.just("models.list"), st.just({"capability": "vision"})),
)
#: Requests that are sent at once, one group after the other.
groups = st.lists(st.lists(requests, min_size=1, max_size=3), min_size=1, max_size=5)


def about(message: dict[str, Any]) -> Any:
    """The request that a message belongs to."""
    params = message.get("params", {})
    return message.get("id", params.get("request_id", params.get("token")))


async def told(
    folder: Path, mode: CassetteMode, asked: Sequence[Any], *, is_timed: bool = False
) -> dict[Any, list[Any]]:
    """What a session sends for each request."""
    state = Path(tempfile.mkdtemp(dir=folder))
    registry = Registry(EVERY_MODEL, ModelStore(state / "car.db"), state)
    app = DoubleApp(registry, folder, mode, is_timed=is_timed, state=state)
    app.loaded.set()
    await app.call("init", "initialize", protocol_version=1)
    app.messages.clear()
    number = 0
    for group in asked:
        ids: list[int] = []
        for method, params in group:
            number += 1
            ids.append(number)
            token = {"progress_token": number} if "progress_token" in params else {}
            app.request(number, method, **{**params, **token})
        for request_id in ids:
            await app.answer(request_id)
    app.session.cancel_all()
    await app.session.answered(5)
    assert app.deck.eject()
    registry.close()
    found: dict[Any, list[Any]] = {}
    for message in app.read():
        found.setdefault(about(message), []).append(message)
    return found


@settings(max_examples=500 if SOAK else 12)
@given(groups)
def test_for_each_request_a_replay_sends_what_the_recording_sent(asked: list[Any]) -> None:
    async def play() -> None:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            first = await told(folder, "record", asked)
            written = (folder / "c.jsonl").read_bytes()
            for mode in ("strict", "replay", "auto"):
                again = await told(folder, mode, asked, is_timed=mode == "replay")
                assert again == first, mode
            assert (folder / "c.jsonl").read_bytes() == written

    asyncio.run(play())
