import sqlite3
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.errors import CarError
from car_rpc.registry.builtin import DEMO_DIR
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import scripted_model
from car_rpc.wire.models import Fit, LocalSource, MlxSource, ModelSchema

BUILTIN = scripted_model("in/built:1", [{"echo": True}])


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "car.db"


@pytest.fixture
def opened(tmp_path: Path, database: Path) -> Iterator[Callable[[], Registry]]:
    """Opens the registry once more, as another process would."""
    registries: list[Registry] = []

    def open_registry() -> Registry:
        registries.append(Registry([BUILTIN], ModelStore(database), tmp_path / "models"))
        return registries[-1]

    yield open_registry
    for registry in registries:
        registry.close()


def mine(**fields: Any) -> ModelSchema:
    model = scripted_model("me/mine:1", [])
    return msgspec.structs.replace(model, **fields)


def failure(work: Callable[[], Any]) -> CarError:
    with pytest.raises(CarError) as caught:
        work()
    return caught.value


def test_a_model_is_there_at_once_and_after_a_restart(opened: Callable[[], Registry]) -> None:
    registry = opened()
    model, replaced = registry.register(mine())
    assert not replaced
    assert (model.provider, model.name) == ("me", "mine")
    assert registry.find("mine") == model
    assert [m.id for m in opened().all()] == ["in/built:1", "me/mine:1"]


def test_what_only_the_core_may_say_is_not_taken_from_the_client(
    opened: Callable[[], Registry],
) -> None:
    claims = {"available": True, "weights_ready": True, "downloads_weights": True}
    fit = Fit(fits=True, memory_bytes=0)
    model, _ = opened().register(mine(trust_tier="curated", fit=fit, **claims))
    assert (model.trust_tier, model.fit) == ("community", msgspec.UNSET)
    assert not any([model.available, model.weights_ready, model.downloads_weights])


def test_registering_again_replaces(opened: Callable[[], Registry]) -> None:
    registry = opened()
    registry.register(mine())
    model, replaced = registry.register(mine(tags=["new"]))
    assert replaced
    assert registry.find("me/mine:1").tags == ["new"] == model.tags


def test_two_processes_see_each_others_changes(opened: Callable[[], Registry]) -> None:
    one, two = opened(), opened()
    assert len(two.all()) == 1
    one.register(mine())
    assert two.find("mine").id == "me/mine:1"
    one.register(mine(tags=["new"]))
    assert two.find("mine").tags == ["new"]
    assert two.unregister("mine") == "me/mine:1"
    assert failure(lambda: one.find("mine")).kind == "model_not_found"


def found(model_id: str) -> ModelSchema:
    return msgspec.structs.replace(scripted_model(model_id, []), tags=["discovered"])


def test_models_that_were_found_are_known_to_this_process_alone(
    opened: Callable[[], Registry],
) -> None:
    one, other = opened(), opened()
    one.replace_discovered([found("vllm/a:1"), found("vllm/b:1")])
    assert one.find("vllm/a:1").name == "a"
    one.replace_discovered([found("vllm/b:1")])
    for registry, model_id in ((one, "vllm/a:1"), (other, "vllm/b:1")):
        with pytest.raises(CarError):
            registry.find(model_id)


def test_a_model_that_was_found_is_forgotten_until_it_is_found_again(
    opened: Callable[[], Registry],
) -> None:
    registry = opened()
    registry.replace_discovered([found("vllm/a:1")])
    assert registry.unregister("vllm/a:1") == "vllm/a:1"
    with pytest.raises(CarError):
        registry.find("vllm/a:1")
    registry.replace_discovered([found("vllm/a:1")])
    assert registry.find("vllm/a:1")


def test_who_registers_a_model_that_was_found_keeps_it_as_his_own(
    opened: Callable[[], Registry],
) -> None:
    registry = opened()
    registry.replace_discovered([found("vllm/a:1")])
    kept, replaced = registry.register(registry.find("vllm/a:1"))
    assert (kept.tags, replaced) == ([], True)
    assert opened().find("vllm/a:1").tags == []
    registry.unregister("vllm/a:1")
    assert registry.find("vllm/a:1").tags == ["discovered"]


def test_no_model_that_was_found_hides_a_built_in_one(opened: Callable[[], Registry]) -> None:
    registry = opened()
    builtin = registry.all()[0]
    registry.replace_discovered([found(builtin.id)])
    assert registry.find(builtin.id) == builtin


def test_the_id_of_a_built_in_model_is_taken(opened: Callable[[], Registry]) -> None:
    registry = opened()
    for work in (
        lambda: registry.register(scripted_model("in/built:1", [])),
        lambda: registry.unregister("in/built:1"),
    ):
        error = failure(work)
        assert (error.kind, error.data["model"]) == ("conflict", "in/built:1")
    assert registry.available_for("generate", lambda _: True)[0].id == "in/built:1"


def test_a_row_of_another_version_is_left_alone(
    opened: Callable[[], Registry], database: Path
) -> None:
    registry = opened()
    row = ("me/future:1", '{"id":"me/future:1","source":{"type":"telepathy"},"capabilities":[]}')
    with sqlite3.connect(database) as other:
        other.execute("INSERT INTO models VALUES (?, ?)", row)
    other.close()
    registry.register(mine())
    assert [m.id for m in registry.all()] == ["in/built:1", "me/mine:1"]
    other = sqlite3.connect(database)
    assert other.execute("SELECT * FROM models WHERE id = ?", row[:1]).fetchall() == [row]
    other.close()


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a.gguf", "{models}/a.gguf"),
        ("sub/a.gguf", "{models}/sub/a.gguf"),
        ("/abs/a.gguf", "/abs/a.gguf"),
        ("~/a.gguf", "{home}/a.gguf"),
    ],
)
def test_a_path_is_kept_absolute_from_the_models_directory(
    opened: Callable[[], Registry], tmp_path: Path, given: str, kept: str
) -> None:
    for source in (LocalSource(path=given), MlxSource(path=given)):
        model, _ = opened().register(mine(source=source))
        assert isinstance(model.source, LocalSource | MlxSource)
        assert model.source.path == kept.format(models=tmp_path / "models", home=Path.home())


@pytest.mark.parametrize("path", ["~nobody-of-this-name/a.gguf", "a\0b.gguf"])
def test_a_path_that_cannot_be_is_refused_before_it_is_kept(
    opened: Callable[[], Registry], path: str
) -> None:
    registry = opened()
    error = failure(lambda: registry.register(mine(source=LocalSource(path=path))))
    assert (error.kind, error.data["path"]) == ("invalid_params", "$.model.source.path")
    assert len(registry.all()) == 1


def test_a_model_without_a_file_is_refused(opened: Callable[[], Registry]) -> None:
    error = failure(lambda: opened().register(mine(source=LocalSource(hf_repo="a/b"))))
    assert (error.kind, error.data["path"]) == ("invalid_params", "$.model.source.path")


def test_weights_of_a_hub_are_found_when_they_come_and_where_they_lie_is_not_kept(
    opened: Callable[[], Registry], tmp_path: Path, database: Path
) -> None:
    registry = opened()
    source = LocalSource(hf_repo="a/b", hf_filename="b.gguf")
    registry.register(mine(source=source))
    assert registry.find("mine").source == source
    path = tmp_path / "models" / "b.gguf"
    path.parent.mkdir()
    path.write_bytes((DEMO_DIR / "tiny-chat-Q8_0.gguf").read_bytes())
    here = msgspec.structs.replace(source, path=str(path))
    assert registry.find("mine").source == here
    assert here in [model.source for model in registry.all()]
    assert registry.available_for("generate", lambda m: m.source == here)[0].id == "me/mine:1"
    model, replaced = registry.register(mine(source=source))
    assert replaced
    assert (model.source, model.family) == (here, "qwen3"), "read from the file that was found"
    assert opened().find("mine").family == "qwen3"
    path.unlink()
    assert registry.find("mine").source == source


def test_what_the_file_says_is_kept_with_the_model(opened: Callable[[], Registry]) -> None:
    registry = opened()
    registry.register(mine(source=LocalSource(path=str(DEMO_DIR / "tiny-chat-Q8_0.gguf"))))
    model = registry.find("mine")
    assert (model.family, model.context_length, model.quantization) == ("qwen3", 1024, "Q8_0")
    assert (model.license, model.chat_template, model.name) == ("apache-2.0", True, "mine")
    registry.register(mine(source=MlxSource(path=str(DEMO_DIR / "mlx")), context_length=99))
    model = registry.find("mine")
    assert (model.family, model.context_length) == ("qwen3", 99)


def test_a_file_that_is_no_model_can_be_registered(
    opened: Callable[[], Registry], tmp_path: Path
) -> None:
    (tmp_path / "a.gguf").write_text("still loading")
    model, _ = opened().register(mine(source=LocalSource(path=str(tmp_path / "a.gguf"))))
    assert model.cost is msgspec.UNSET


def test_a_database_that_is_none_is_an_io_error(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("this is no database, whatever its name says " * 100)
    error = failure(lambda: ModelStore(tmp_path / "text"))
    assert (error.kind, error.data["path"]) == ("io_error", str(tmp_path / "text"))
    assert failure(lambda: ModelStore(tmp_path / "missing" / "car.db")).kind == "io_error"


def test_a_database_that_breaks_later_is_an_io_error(
    opened: Callable[[], Registry], database: Path
) -> None:
    registry = opened()
    with sqlite3.connect(database) as other:
        other.execute("DROP TABLE registry")
    other.close()
    assert failure(registry.all).kind == "io_error"


class GatedStore(ModelStore):
    """Holds up whoever has read the models, once."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def load(self) -> list[ModelSchema]:
        models = super().load()
        if not self.reached.is_set():
            self.reached.set()
            assert self.go_on.wait(30)
        return models


def test_who_asks_while_another_thread_reads_the_models_gets_the_new_ones(
    opened: Callable[[], Registry], tmp_path: Path, database: Path
) -> None:
    opened().register(mine())
    store = GatedStore(database)
    registry = Registry([BUILTIN], store, tmp_path)
    with ThreadPoolExecutor(2) as threads:
        first = threads.submit(registry.all)
        assert store.reached.wait(30)
        second = threads.submit(registry.find, "mine")
        wait([second], timeout=0.1)  # it is not done yet, or it is wrong
        store.go_on.set()
        assert second.result(30).id == "me/mine:1"
        assert len(first.result(30)) == 2
    registry.close()
