"""Image files as rows of red, green and blue.

Nobody vouches for their content: what is wrong with one is an ``invalid_request`` that says so.
"""

from __future__ import annotations

import io
from typing import NamedTuple

from PIL import Image, ImageOps

from car_rpc.errors import CarError

#: Kinds of files that are read, by Pillow's names. Others need programs of their own, or run code.
_KINDS = ("BMP", "GIF", "JPEG", "PNG", "WEBP")

#: Most pixels of an image. It takes three bytes each in memory, whatever its file's size.
MAX_PIXELS = 64_000_000

#: Most pixels of a side, the most that JPEG has. What is longer is no picture: made smaller, it
#: would take far longer than one of as many pixels.
MAX_SIDE = 65_535

# Pillow warns at sizes of its own; ours is checked before anything is decoded.
Image.MAX_IMAGE_PIXELS = None


class Pixels(NamedTuple):
    """An image.

    Attributes:
        width: Pixels of a row.
        height: Rows.
        data: Three bytes a pixel, row by row: red, green, blue.
    """

    width: int
    height: int
    data: bytes


def read_image(content: bytes) -> Pixels:
    """The pixels of an image file, turned as it was meant and put on white where it is clear.

    Raises:
        CarError: ``invalid_request`` when it is no image, damaged or too large.
    """
    if not content:
        raise _invalid("it is empty")
    kind: str | None = None
    try:
        with Image.open(io.BytesIO(content), formats=_KINDS) as file:
            kind = file.format
            _check_size(file)
            image = _plain(ImageOps.exif_transpose(file))
    except CarError:
        raise
    except Exception as error:
        # A decoder of untrusted bytes may raise anything; what it says of them is for whoever
        # sent them.
        reason = str(error) or type(error).__name__
        if kind is not None:
            raise _invalid(f"its {kind} is cut off or damaged ({reason}); send it whole") from error
        if "cannot identify" in reason:  # it names the buffer, which says nothing
            reason = "its bytes are not of a kind that is read"
        raise _invalid(f"{reason}; send a whole PNG, JPEG, WebP, GIF or BMP") from error
    return Pixels(image.width, image.height, image.tobytes())


def _check_size(image: Image.Image) -> None:
    size = f"it has {image.width} x {image.height} pixels"
    if image.width * image.height > MAX_PIXELS:
        raise _invalid(f"{size}, {MAX_PIXELS} at most")
    if max(image.size) > MAX_SIDE:
        raise _invalid(f"{size}, {MAX_SIDE} a side at most")


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey, which a conversion would cut off
        image = image.convert("I").point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        clear = image.convert("RGBA")
        image = Image.new("RGBA", image.size, "white")
        image.alpha_composite(clear)
    return image.convert("RGB")


def _invalid(problem: str) -> CarError:
    return CarError("invalid_request", f"the image cannot be used: {problem}")
