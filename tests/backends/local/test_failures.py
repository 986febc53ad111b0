"""A model that could not be loaded is remembered, until it is another one."""

from pathlib import Path

import msgspec

from car_rpc.backends.local.failures import FailedLoads
from car_rpc.errors import CarError
from car_rpc.wire.models import LocalSource, ModelSchema
from car_rpc.wire.speculation import DraftSpeculation
from car_rpc.wire.worker import Load

ERROR = CarError("model_load_failed", "it is broken")


def test_it_counts_as_broken_until_one_of_its_files_is_another(tmp_path: Path) -> None:
    model_file, draft_file = tmp_path / "model.gguf", tmp_path / "draft.gguf"
    model_file.write_bytes(b"model")
    draft_file.write_bytes(b"draft")
    draft = DraftSpeculation(path=str(draft_file))
    source = LocalSource(path=str(model_file), speculation=draft)
    model = ModelSchema(id="a/b:c", source=source, capabilities=["generate"])
    load = Load(path=str(model_file), speculation=draft)
    failures = FailedLoads()
    assert not failures.reason(model)
    failures.note(model, load, ERROR)
    assert failures.reason(model) == "it is broken"
    draft_file.write_bytes(b"another draft")
    assert not failures.reason(model)
    failures.note(model, load, ERROR)
    model_file.unlink()
    assert not failures.reason(model)


def test_it_no_longer_counts_when_it_is_loaded_or_registered_with_another_source() -> None:
    model = ModelSchema(id="a/b:c", source=LocalSource(path="x"), capabilities=["generate"])
    failures = FailedLoads()
    for end in (failures.forget, lambda _: None):
        failures.note(model, Load(path="x"), ERROR)
        end(model)
        other = msgspec.structs.replace(model, source=LocalSource(path="y"))
        assert not failures.reason(other)
        assert not failures.reason(model)
