"""What a download or an import leaves behind, without a network."""

import errno
from pathlib import Path

import pytest

from car_rpc.errors import CarError
from car_rpc.wire.worker import FromPath

sources = pytest.importorskip("car_rpc.workers.hub.sources", reason="huggingface-hub is absent")


def test_an_import_that_does_not_fit_on_the_disk_leaves_nothing_of_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"x" * 100)
    target = tmp_path / "models" / "small" / "small.gguf"

    def full(origin: Path, into: Path, note: object) -> None:
        into.write_bytes(b"x")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sources, "_copy", full)
    source = FromPath(path=str(origin), is_folder=False, target=str(target))
    with pytest.raises(OSError, match="No space"):
        sources.from_path(source, lambda done, total: None)
    assert [path.name for path in target.parent.iterdir() if path.suffix != ".lock"] == []


def test_more_than_the_disk_has_is_refused_before_anything_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    origin = tmp_path / "origin.gguf"
    origin.write_bytes(b"x" * 100)
    monkeypatch.setattr(sources, "MIN_FREE_BYTES", 2**80)
    target = tmp_path / "models" / "small.gguf"
    source = FromPath(path=str(origin), is_folder=False, target=str(target))
    with pytest.raises(CarError) as caught:
        sources.from_path(source, lambda done, total: None)
    assert caught.value.kind == "io_error"
    assert caught.value.extra["needed_bytes"] == 100
    assert not target.exists()
