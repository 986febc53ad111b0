"""Image files as rows of pixels, whatever is in them."""

import io
import struct
import zlib
from typing import Any

import pytest

pytest.importorskip("PIL")

import numpy as np
from PIL import Image

from car_rpc.errors import CarError
from car_rpc.workers import image as image_module
from car_rpc.workers.image import read_image


def file(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def rows(content: bytes) -> Any:
    pixels = read_image(content)
    return np.frombuffer(pixels.data, np.uint8).reshape(pixels.height, pixels.width, 3)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "GIF", "WEBP", "JPEG"])
def test_each_kind_of_file_is_read(kind: str) -> None:
    image = Image.new("RGB", (5, 3), (200, 100, 0))
    options = {"lossless": True} if kind == "WEBP" else {}
    found = rows(file(image, kind, **options))
    assert found.shape == (3, 5, 3)
    assert np.abs(found.astype(int) - (200, 100, 0)).max() <= (4 if kind == "JPEG" else 0)


def test_what_is_clear_is_white() -> None:
    image = Image.new("RGBA", (2, 1), (0, 0, 0, 0))
    image.putpixel((1, 0), (255, 0, 0, 255))
    assert rows(file(image)).tolist() == [[[255, 255, 255], [255, 0, 0]]]


def test_a_photo_is_turned_as_it_was_meant() -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was held upright
    assert rows(file(image, "JPEG", exif=exif)).shape == (4, 2, 3)


def test_sixteen_bits_of_grey_are_the_same_grey() -> None:
    deep = Image.fromarray(np.full((1, 1), 0x8000, np.uint16))
    assert rows(file(deep)).tolist() == [[[128, 128, 128]]]


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "CMYK", "YCbCr"])
def test_every_way_to_store_colours_is_read(mode: str) -> None:
    kind = "JPEG" if mode in ("CMYK", "YCbCr") else "PNG"
    assert rows(file(Image.new(mode, (3, 3)), kind)).shape == (3, 3, 3)


@pytest.mark.parametrize(
    "content",
    [
        b"hello",
        b"%PDF-1.7",
        b"<svg xmlns='http://www.w3.org/2000/svg'/>",
        file(Image.new("RGB", (9, 9)), "TIFF"),
    ],
)
def test_what_is_no_image_is_refused(content: bytes) -> None:
    with pytest.raises(CarError) as caught:
        read_image(content)
    assert caught.value.kind == "invalid_request"
    assert "send a whole PNG, JPEG, WebP, GIF or BMP" in caught.value.detail
    assert "BytesIO" not in caught.value.detail


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_a_file_that_is_cut_off_is_called_by_its_kind(kind: str) -> None:
    noise = np.random.default_rng(5).integers(0, 255, (90, 90, 3), np.uint8)
    content = file(Image.fromarray(noise), kind)
    with pytest.raises(CarError) as caught:
        read_image(content[: len(content) // 2])
    assert caught.value.kind == "invalid_request"
    assert f"its {kind} is cut off or damaged" in caught.value.detail
    assert caught.value.detail.endswith("send it whole")


def test_an_empty_file_is_called_empty() -> None:
    with pytest.raises(CarError, match="it is empty"):
        read_image(b"")


def test_a_small_file_cannot_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_module, "MAX_PIXELS", 100)
    assert rows(file(Image.new("1", (10, 10)))).shape == (10, 10, 3)
    with pytest.raises(CarError, match="it has 10 x 11 pixels, 100 at most"):
        read_image(file(Image.new("1", (10, 11))))


@pytest.mark.parametrize(
    ("size", "problem"),
    [
        ((65_536, 1), "65536 x 1 pixels, 65535 a side at most"),
        ((1, 65_536), "1 x 65536 pixels, 65535 a side at most"),
        ((2**31 - 1, 2**31 - 1), "2147483647 x 2147483647 pixels, 64000000 at most"),
    ],
)
def test_absurd_sizes_are_refused_before_anything_is_decoded(
    size: tuple[int, int], problem: str
) -> None:
    header = b"IHDR" + struct.pack(">II5B", *size, 1, 0, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + header
    content += struct.pack(">I", zlib.crc32(header)) + struct.pack(">I", 0) + b"IDAT"
    with pytest.raises(CarError, match=problem) as caught:
        read_image(content)
    assert caught.value.kind == "invalid_request"


@pytest.mark.parametrize("size", [(65_535, 1), (1, 65_535)])
def test_an_image_may_be_as_long_as_jpeg_allows(size: tuple[int, int]) -> None:
    assert rows(file(Image.new("1", size))).shape == (size[1], size[0], 3)
