"""What a download or an import leaves behind, with no other network than this machine's."""

import errno
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.wire.worker import FromPath

sources = pytest.importorskip("car_rpc.workers.hub.sources", reason="huggingface-hub is absent")
download = pytest.importorskip("car_rpc.workers.hub.download")

#: What a file at an address repeats: a prime length, so that no piece fits at another place.
PATTERN = bytes(range(251)) * 4096


class Address(ThreadingHTTPServer):
    """Serves one file of any size, made up as it is sent.

    Attributes:
        size_bytes: Its size.
        knows_ranges: Whether a part of it can be asked for.
        cut_after: Bytes after which the next answer ends, and every later one is an error.
        asked: The ranges that were asked for.
    """

    size_bytes = 0
    knows_ranges = True
    cut_after: int | None = None

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answer)
        self.asked: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_address[1]}/big.gguf"

    def remote(self, size_bytes: int) -> Any:
        self.size_bytes = size_bytes
        return download.RemoteFile(self.url, size_bytes)


class _Answer(BaseHTTPRequestHandler):
    server: Address
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        served = self.server
        served.asked.append(self.headers["Range"])
        if len(served.asked) > 1 and served.cut_after is not None:
            self.send_error(500)
            return
        start, end = 0, served.size_bytes - 1
        if self.headers["Range"] and served.knows_ranges:
            first, last = re.findall(r"bytes=(\d+)-(\d*)", self.headers["Range"])[0]
            start, end = int(first), int(last or end)
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{end}/{served.size_bytes}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(end + 1 - start))
        self.end_headers()
        stop = end + 1 if served.cut_after is None else start + served.cut_after
        while start < stop:
            piece = content(start, min(stop - start, len(PATTERN) - 251))
            self.wfile.write(piece)
            start += len(piece)
        self.close_connection = served.cut_after is not None

    def log_message(self, *_: object) -> None:
        pass


def content(start: int, size: int) -> bytes:
    return PATTERN[start % 251 : start % 251 + size]


@pytest.fixture
def address() -> Iterator[Address]:
    with Address() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def fetch(remote: Any, tmp_path: Path) -> tuple[int, Path]:
    partial, target = tmp_path / "big.incomplete", tmp_path / "big.gguf"
    return download.fetch(remote, partial, target, lambda _: None), target


def test_what_is_longer_than_an_answer_comes_in_ranges(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_ANSWER_BYTES", 300_000)
    came, target = fetch(address.remote(1_000_000), tmp_path)
    assert came == 1_000_000
    assert target.read_bytes() == content(0, 1_000_000)
    assert address.asked == [
        f"bytes={start}-{min(start + 300_000, 1_000_000) - 1}" for start in range(0, 10**6, 300_000)
    ]


def test_a_server_that_knows_no_ranges_sends_all_of_it_once(
    address: Address, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "MAX_ANSWER_BYTES", 300_000)
    address.knows_ranges = False
    assert fetch(address.remote(1_000_000), tmp_path)[1].read_bytes() == content(0, 1_000_000)
    assert len(address.asked) == 1


def test_sixty_gigabytes_begin_and_go_on_where_they_broke(address: Address, tmp_path: Path) -> None:
    remote = address.remote(60 * 10**9)
    address.cut_after = 500_000
    with pytest.raises(Exception, match="500"):
        fetch(remote, tmp_path)
    (partial,) = tmp_path.glob("*.incomplete")
    kept = partial.read_bytes()
    assert kept == content(0, len(kept))
    assert len(kept) > 500_000 - download.constants.DOWNLOAD_CHUNK_SIZE
    with partial.open("ab") as file:
        file.truncate(remote.size_bytes - 700_000)  # all but the end, with nothing on the disk
    address.cut_after, address.asked = None, []
    came, target = fetch(remote, tmp_path)
    assert came == 700_000
    assert address.asked == ["bytes=59999300000-59999999999"]
    assert target.stat().st_size == remote.size_bytes
    with target.open("rb") as file:
        assert file.read(len(kept)) == kept
        file.seek(-700_000, 2)
        assert file.read() == content(remote.size_bytes - 700_000, 700_000)


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
