"""Parameters that no client means: each gets a result or a typed error, and none is a defect."""

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_rpc.wire.methods import METHODS
from tests.conftest import SOAK
from tests.fuzz.oracle import check_form
from tests.process.conftest import Core, request

pytestmark = [pytest.mark.process, pytest.mark.timeout(1800)]

EXAMPLES = 5000 if SOAK else 100

#: `initialize` and `shutdown` have tests of their own; these would end or empty the session.
LEFT_OUT = {"initialize", "shutdown", "models.unregister"}

scalars = st.sampled_from(
    [
        None, True, 0, -1, 1, 1.5, 2**31, 2**53, 2**63, 10**30, -(2**63), 1e308, -0.0, 1e-320,
        "", "x", "\0", "\u2028", "../" * 9, "~", "C:\\", "t/echo:1", "%s{}", "9" * 30, "x" * 5000,
        "2026-13-45", "2026-01-31T08:30:00Z", "0001-01-01T00:00:00+23:59",
        "9999-12-31T23:59:59-23:59",
    ]
)  # fmt: skip
trees = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)
#: Members of the content that a request may hold.
parts = st.sampled_from(
    [
        {"type": "text", "text": "x"},
        {"type": "tool_result", "tool_use_id": "", "content": []},
        {"type": "image", "source": {"type": "path", "path": "/etc/passwd"}},
        {"type": "image", "source": {"type": "path", "path": "\0"}},
        {"type": "image", "source": {"type": "path", "path": "x" * 5000}},
        {"type": "image", "source": {"type": "base64", "media_type": "", "data": "!"}},
        {"type": "document", "source": {"type": "url", "url": "file:///etc/passwd"}},
    ]
)
messages = st.lists(
    st.fixed_dictionaries(
        {"role": st.sampled_from(["user", "system", "tool", "assistant"])},
        optional={"content": st.lists(parts, max_size=2) | scalars, "tool_calls": trees},
    ),
    max_size=3,
)
sources = st.sampled_from(
    [
        {"type": "fake", "script": []},
        {
            "type": "fake",
            "script": [{"emit": {"type": "stop", "reason": "end_turn"}, "repeat": 2**53}],
        },
        {"type": "local", "path": "/nonexistent.gguf"},
        {"type": "local", "path": "\0"},
        {"type": "local", "path": "x" * 5000},
        {"type": "local"},
        {"type": "mlx"},
        {"type": "delegated", "hint": ""},
        {"type": "of the future"},
    ]
)
models = st.fixed_dictionaries(
    {
        "id": st.sampled_from(
            ["f/z:1", "f/z:1", "f/z:2", "demo/tiny-chat:gguf", "", "x", "a/\0:b"]
        ),
        "source": sources,
        "capabilities": st.just(["generate"]) | trees,
    },
    optional={"context_length": scalars, "tags": trees, "name": scalars},
)
known: dict[str, st.SearchStrategy[Any]] = {
    "prompt": st.sampled_from(["", "hi"]),
    "messages": messages,
    "images": st.lists(parts, max_size=2),
    "model": st.sampled_from(["t/echo:1", "t/echo:1", "echo", "no/such:1", ""]) | models,
    "timeout_ms": st.sampled_from([1, 50, 2**53 - 1, 2**53]),
    "texts": st.lists(st.just("x"), max_size=2),
    "tokens": st.lists(scalars, max_size=3),
}


#: Parameters that are right, to be spoiled.
RIGHT: dict[str, dict[str, Any]] = {
    "generate": {"prompt": "hi", "model": "t/echo:1"},
    "embed": {"texts": ["x"], "model": "t/echo:1"},
    "tokenize": {"model": "t/echo:1", "text": "x"},
    "detokenize": {"model": "t/echo:1", "tokens": [1]},
    "models.get": {"model": "t/echo:1"},
    "models.register": {
        "model": {"id": "f/z:1", "source": {"type": "fake", "script": []}, "capabilities": []}
    },
    "runner.event": {"call_id": "x", "event": {"type": "text_delta", "text": "x"}},
}


def fields_of(method: str) -> list[str]:
    return [field.encode_name for field in msgspec.structs.fields(METHODS[method].params)]


@st.composite
def calls(draw: st.DrawFn) -> tuple[str, Any]:
    """A method, and parameters of its own of which some are not what they should be."""
    method = draw(st.sampled_from(sorted(served() - LEFT_OUT)))
    if not draw(st.integers(0, 9)):
        return method, draw(trees)
    names = st.sampled_from([*fields_of(method), "x"])
    spoiled = draw(st.lists(names, max_size=3, unique=True))
    values = {name: draw(known.get(name, scalars) | scalars | trees) for name in spoiled}
    return method, {**RIGHT.get(method, {}), **values}


def served() -> set[str]:
    return {
        name
        for name, row in METHODS.items()
        if row.direction != "core_to_client" and row.kind != "notification"
    }


@pytest.fixture(scope="module")
def core(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Core]:
    core = Core(tmp_path_factory.mktemp("params") / "state")
    core.initialize()
    core.fake("t/echo:1", {"echo": True})
    yield core
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()
    assert "Traceback" not in core.stderr()


@settings(max_examples=EXAMPLES)
@given(call=calls())
def test_no_parameters_are_a_defect(core: Core, call: tuple[str, Any]) -> None:
    method, params = call
    since = len(core.messages)
    core.send({**request("fuzz", method), "params": params})
    core.ping()
    core.cancel("fuzz")  # what was valid may last
    check_form(core.response("fuzz", since))
    core.ping()
    assert sum("method" not in m and m["id"] == "fuzz" for m in core.messages[since:]) == 1
