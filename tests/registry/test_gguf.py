import io
import struct
import sys

import gguf
import pytest
from hypothesis import given
from hypothesis import strategies as st

from car_rpc.registry import gguf as header
from car_rpc.registry.builtin import DEMO_DIR
from car_rpc.registry.gguf import read_header
from tests.registry.conftest import MakeGguf

DEMO = (DEMO_DIR / "tiny-chat-Q8_0.gguf").read_bytes()


def text(value: bytes) -> bytes:
    return struct.pack("<Q", len(value)) + value


def pair(key: bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def file_of(*pairs: bytes, tensors: tuple[bytes, ...] = (), version: int = 3) -> bytes:
    counts = struct.pack("<IQQ", version, len(tensors), len(pairs))
    return b"GGUF" + counts + b"".join(pairs) + b"".join(tensors)


def read(data: bytes) -> header.Header:
    return read_header(io.BytesIO(data))


def test_the_official_reader_sees_the_same_in_the_demo_model() -> None:
    path = DEMO_DIR / "tiny-chat-Q8_0.gguf"
    official = gguf.GGUFReader(path)
    with path.open("rb") as file:
        header = read_header(file)
    metadata = header.metadata
    assert header.parameters == sum(int(tensor.n_elements) for tensor in official.tensors)
    assert header.tensors == {
        tensor.name: (tuple(map(int, tensor.shape)), tensor.tensor_type)
        for tensor in official.tensors
    }
    assert header.kinds == {
        key: field.types[0] for key, field in official.fields.items() if not key.startswith("GGUF.")
    }
    # The official reader adds what it counted itself.
    assert set(metadata) == {key for key in official.fields if not key.startswith("GGUF.")}
    for key, value in metadata.items():
        said = official.fields[key].contents()
        if value != "":
            assert value == (pytest.approx(said) if isinstance(value, float) else said), key
    assert metadata["general.architecture"] == "qwen3"
    assert header.has_rank_head


def test_what_nobody_asks_for_is_stepped_over(make_gguf: MakeGguf) -> None:
    path = make_gguf(
        general__name="small",
        tokenizer__chat_template="{{ long }}" * 1000,
        tokenizer__ggml__tokens=["a", "bc", "d"],
        tokenizer__ggml__scores=[0.5] * 5000,
        qwen3__attention__head_count_kv=[2, 0, 2],
    )
    with path.open("rb") as file:
        metadata, _, _ = header = read_header(file)
    assert metadata["tokenizer.chat_template"] == ""
    assert metadata["tokenizer.ggml.tokens"] == ""
    assert metadata["tokenizer.ggml.scores"] == ""
    assert metadata["qwen3.attention.head_count_kv"] == [2, 0, 2]
    assert metadata["general.name"] == "small"
    assert header.parameters == 500 * 4000


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "cut off"),
        (b"GGU", "cut off"),
        (b"version https://git-lfs.github.com/spec/v1", "not a GGUF file"),
        (file_of(version=1), "version 1"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "is not known"),
        (b"GGUF" + struct.pack("<IQQ", 3, 2**63, 0), "beyond belief"),
        (b"GGUF" + struct.pack("<IQQ", 3, 0, 2**63), "beyond belief"),
        (file_of(struct.pack("<Q", 2**62)), "too long"),
        (file_of(pair(b"k", 99, b"")), "unknown type 99"),
        (file_of(pair(b"k", 8, struct.pack("<Q", 2**62))), "longer than"),
        (file_of(pair(b"k", 9, struct.pack("<IQ", 4, 2**62))), "longer than"),
        (file_of(pair(b"k", 9, struct.pack("<IQ", 8, 2**62))), "beyond belief"),
        (file_of(pair(b"k", 9, struct.pack("<IQ", 9, 2))), "unknown type 9"),
        (file_of(tensors=(text(b"t") + struct.pack("<I", 10**6),)), "1000000 dimensions"),
    ],
)
def test_what_cannot_be_is_refused_before_it_is_believed(data: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        read(data)


def test_a_file_of_many_empty_strings_ends_with_the_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(header, "MAX_HEADER_BYTES", 1000)
    data = file_of(pair(b"k", 9, struct.pack("<IQ", 8, 1000) + bytes(8000)))
    with pytest.raises(ValueError, match="longer than 1000 bytes"):
        read(data)


@given(st.integers(0, len(DEMO) - 1))
def test_a_file_that_is_cut_off_is_refused_or_read_as_the_whole(length: int) -> None:
    try:
        found = read(DEMO[:length])
    except ValueError:
        return
    assert found == read(DEMO)


@given(st.lists(st.tuples(st.integers(0, 60_000), st.integers(0, 255)), min_size=1, max_size=5))
def test_no_change_to_its_bytes_brings_the_reader_down(changes: list[tuple[int, int]]) -> None:
    data = bytearray(DEMO)
    for position, value in changes:
        data[position] = value
    try:
        found = read(bytes(data))
    except ValueError:
        return
    assert len(found.metadata) <= header.MAX_ENTRIES
    assert found.parameters >= 0


@given(st.binary(max_size=200))
def test_no_bytes_behind_the_magic_bring_the_reader_down(data: bytes) -> None:
    try:
        metadata, _, _ = read(b"GGUF" + struct.pack("<I", 3) + data)
    except ValueError:
        return
    assert sys.getsizeof(metadata) < 10_000
