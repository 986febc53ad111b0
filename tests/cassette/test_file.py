"""The file of a cassette, and those that requests name."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from car_rpc.cassette import file
from car_rpc.errors import CarError


def test_lines_come_back_and_are_for_their_owner(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    assert file.read_lines(path) is None
    file.write_lines(path, [b"{}", b"[1]"])
    assert file.read_lines(path) == [b"{}", b"[1]"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_failed_write_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    path.write_bytes(b"before\n")

    def lines() -> Iterator[bytes]:
        yield b"{}"
        raise OSError(28, "No space left on device")

    with pytest.raises(CarError, match="No space left on device"):
        file.write_lines(path, lines())
    assert [each.name for each in tmp_path.iterdir()] == ["c.jsonl"]
    assert path.read_bytes() == b"before\n"


def test_the_folder_is_made_before_anything_is_recorded(tmp_path: Path) -> None:
    file.check_writable(tmp_path / "a" / "b" / "c.jsonl")
    assert (tmp_path / "a" / "b").is_dir()


def test_media_are_files_of_a_size_that_can_be_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a.png").write_bytes(b"12345")
    assert file.read_media(str(tmp_path / "a.png")) == b"12345"
    for other in (tmp_path, tmp_path / "none", "\0", "~nobody-has-this-name/x"):
        assert file.read_media(str(other)) is None
    monkeypatch.setattr(file, "MAX_MEDIA_BYTES", 4)
    assert file.read_media(str(tmp_path / "a.png")) is None


@pytest.mark.parametrize("text", ["", "no json", "[]", '{"data":5}', '{"data":{"version":"1"}}'])
def test_a_file_that_names_no_engines_is_no_fault_yet(tmp_path: Path, text: str) -> None:
    (tmp_path / "c.jsonl").write_text(text)
    assert file.recorded_backends(tmp_path / "c.jsonl") is None
    assert file.recorded_backends(tmp_path / "none.jsonl") is None
