"""LoRA adapters behind the wire: models of their own, on weights that another entry also has."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.process.conftest import Core
from tests.workers.conftest import KINDS, Kind
from tests.workers.lora import changes, write_adapter, write_demo

pytestmark = [pytest.mark.process, pytest.mark.timeout(180)]

BASE, STYLED = "t/tiny:base", "t/tiny:styled"


class World(NamedTuple):
    """A core that knows the demo model, with an adapter and without."""

    core: Core
    kind: Kind
    folder: Path
    source: Callable[..., dict[str, Any]]


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.engine)
def world(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    kind: Kind = request.param
    pytest.importorskip(kind.library)
    folder = tmp_path_factory.mktemp("adapters")
    made = changes("blk.0.attn_q", "blk.3.attn_q", "blk.2.ffn_down")
    write_demo(kind.engine, folder / "base", {})
    write_adapter(kind.engine, folder / "style", made)

    def source(*adapters: object) -> dict[str, Any]:
        found = {"type": "local" if kind.engine == "llama_cpp" else "mlx", "path": "base"}
        return {**found, "adapters": list(adapters)} if adapters else found

    core = Core(folder / "state", "--models-dir", str(folder))
    core.initialize()
    core.register(BASE, source())
    core.register(STYLED, source({"path": "style", "scale": 0.75}))
    yield World(core, kind, folder, source)
    core.close_stdin()
    assert core.wait() == 0
    core.ended_output()
    core.kill()


def said(core: Core, model: str) -> str:
    params = {"temperature": 0, "thinking": "off", "max_tokens": 24}
    return core.call(
        "generate", {"model": model, "prompt": "Tell me a short story.", "params": params}
    )["text"]


def test_a_model_with_an_adapter_answers_beside_the_one_without(world: World) -> None:
    core = world.core
    plain = said(core, BASE)
    assert said(core, STYLED) != plain
    assert said(core, BASE) == plain, "which is as it was"
    loaded = {each["model_id"] for each in core.call("admission.status")["loaded"]}
    assert loaded == {BASE, STYLED}, "each in a process of its own"
    page = core.call("eventlog.query", {"types": ["model_load"], "limit": 100})
    told = {each["data"]["model"]: each["data"].get("adapters") for each in page["events"]}
    assert told == {BASE: None, STYLED: [{"path": str(world.folder / "style"), "scale": 0.75}]}


def test_the_registry_knows_its_adapters_and_their_size(world: World) -> None:
    core = world.core
    base, styled = (core.call("models.get", {"model": each})["model"] for each in (BASE, STYLED))
    (adapter,) = styled["source"]["adapters"]
    assert adapter == {"path": str(world.folder / "style"), "scale": 0.75}
    assert (styled["available"], styled["weights_ready"]) == (True, True)
    assert styled["cost"]["size_bytes"] > base["cost"]["size_bytes"] > 0
    error = core.fail("models.remove", {"model": STYLED})
    assert error["data"]["kind"] == "conflict"
    assert (world.folder / "style").exists()


def test_no_adapter_is_deleted_with_the_weights_that_it_lies_among(world: World) -> None:
    core, folder = world.core, world.folder / "fetched"
    core.register("t/fetched:1", {"type": "mlx", "hf_repo": "a/fetched"})
    folder.mkdir()
    (folder / "config.json").touch()
    write_adapter("mlx", folder / "style", changes("blk.0.attn_q"))
    core.register("t/user:1", {**world.source(), "adapters": [{"path": "fetched/style"}]})
    error = core.fail("models.remove", {"model": "t/fetched:1"})
    assert error["data"]["kind"] == "conflict"
    assert error["data"]["path"] == str(folder / "style")
    core.call("models.unregister", {"model": "t/user:1"})
    core.call("models.remove", {"model": "t/fetched:1"})
    assert not folder.exists()


def test_a_model_whose_adapter_is_missing_is_not_ready_and_says_why(world: World) -> None:
    core, gone = world.core, world.folder / "gone"
    source = world.source({"path": "style"}, {"path": "gone"})
    model = {"id": "t/gone:1", "source": source, "capabilities": ["generate"]}
    kept = core.call("models.register", {"model": {**model, "reason": "none"}})["model"]
    assert (kept["available"], kept["weights_ready"]) == (False, False)
    assert kept["reason"] == f"adapters[1]: {gone} is not there"
    health = core.call("models.health")["models"]
    assert kept["reason"] in [each.get("reason") for each in health]
    error = core.fail("generate", {"model": "t/gone:1", "prompt": "x"})
    assert error["data"]["kind"] == "model_load_failed"
    assert str(gone) in error["message"]


def test_an_adapter_that_does_not_fit_is_refused_and_nothing_ends(world: World) -> None:
    core = world.core
    misplaced = {"blk.0.attn_q": changes("blk.2.ffn_down")["blk.2.ffn_down"]}
    write_adapter(world.kind.engine, world.folder / "misplaced", misplaced)
    core.register("t/bad:1", world.source({"path": "misplaced"}))
    error = core.fail("generate", {"model": "t/bad:1", "prompt": "x", "recovery": "none"})
    assert error["data"]["kind"] == "model_load_failed"
    assert error["data"]["path"] == str(world.folder / "misplaced")
    assert not core.call("eventlog.query", {"types": ["worker_crash"]})["events"]


def test_a_registration_names_what_is_wrong_with_an_adapter(world: World) -> None:
    where = "$.model.source.adapters"
    for adapters, path in (
        ([{"scale": 1}], f"{where}[0].path"),
        ([{"path": "x"}, {"path": "x", "scale": 11}], f"{where}[1].scale"),
        ([{"path": "x"}, {"path": "a\0b"}], f"{where}[1].path"),
        ([{"path": "x"}] * 17, where),
    ):
        source = {**world.source(), "adapters": adapters}
        model = {"id": "t/bad:2", "source": source, "capabilities": ["generate"]}
        error = world.core.fail("models.register", {"model": model})
        assert (error["data"]["kind"], error["data"]["path"]) == ("invalid_params", path)
