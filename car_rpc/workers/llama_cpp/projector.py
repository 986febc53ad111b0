"""Images and sound for models of llama.cpp: its library mtmd and a projector's file.

A projector makes vectors of an image, which the model reads in place of tokens. Where they stand
in a prompt, a number below 0 stands in its list of tokens for each position that they take. The
number is made of the content, so whatever compares lists of tokens tells images apart.
"""

from __future__ import annotations

import ctypes
import hashlib
import weakref
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire.content import ImageBlock
from car_rpc.workers.chat.prompt import Part
from car_rpc.workers.llama_cpp.context import DecodeError
from car_rpc.workers.llama_cpp.native import BACKEND, lib, load_mtmd, recent_errors

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from car_rpc.wire.media import MediaBlock
    from car_rpc.workers.image import Pixels
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.context import Context
    from car_rpc.workers.llama_cpp.model import Model

_pointer_to: Any = ctypes.POINTER

#: enum mtmd_input_chunk_type of mtmd.h
_TEXT = 0

#: Tokens of an image that must be read in one batch, because they see each other (Gemma).
WHOLE_IMAGE = 2048

#: What mtmd returns for an image that was not encoded.
_NOT_ENCODED = -1


class Projector:
    """A loaded projector. It is never freed: the process ends with it.

    Args:
        path: Its file.
        model: The model that it belongs to.
        chunk: Tokens that the model reads at once.

    Raises:
        CarError: The file cannot be read (``io_error``), or is no projector for this model
            (``model_load_failed``).
    """

    def __init__(self, path: str, model: Model, chunk: int) -> None:
        self.size_bytes = _size(path)
        self.mtmd = load_mtmd()
        params = self.mtmd.mtmd_context_params_default()
        params.print_timings = False
        params.n_threads = model.threads.most  # it cannot be changed later
        self.handle: Any = self.mtmd.mtmd_init_from_file(path.encode(), model.handle, params)
        if not self.handle:
            raise _load_error(path)
        self.name = Path(path).name
        self.sees = bool(self.mtmd.mtmd_support_vision(self.handle))
        self.hears = bool(self.mtmd.mtmd_support_audio(self.handle))
        self.sound_rate: int = self.mtmd.mtmd_get_audio_sample_rate(self.handle)
        whole = self.mtmd.mtmd_decode_use_non_causal(self.handle, None)
        #: Tokens that the model must be able to read in one batch.
        self.batch_tokens = max(chunk, WHOLE_IMAGE) if whole else chunk
        self._chunk = chunk

    def image(self, content: bytes, pixels: Pixels) -> Bitmap:
        """An image for the projector.

        Args:
            content: Its file, by which it is known.
            pixels: What is in it.
        """
        data = (ctypes.c_uint8 * len(pixels.data)).from_buffer_copy(pixels.data)
        handle = self.mtmd.mtmd_bitmap_init(pixels.width, pixels.height, data)
        return Bitmap(self.mtmd, handle, b"image", content)

    def sound(self, content: bytes, samples: NDArray[np.float32]) -> Bitmap:
        """A recording for the projector, :attr:`sound_rate` samples a second.

        Args:
            content: Its file, by which it is known.
            samples: What is in it.
        """
        data = np.ascontiguousarray(samples, np.float32).ctypes
        pointer = data.data_as(ctypes.POINTER(ctypes.c_float))
        handle = self.mtmd.mtmd_bitmap_init_from_audio(len(samples), pointer)
        return Bitmap(self.mtmd, handle, b"sound", content)

    def tokenize(
        self,
        parts: Sequence[Part],
        bitmaps: Sequence[Bitmap],
        places: Sequence[str],
        first: Sequence[int],
    ) -> tuple[list[int], list[Medium]]:
        """Tokens of a prompt, and the images and recordings among them.

        May run beside everything else.

        Args:
            parts: The prompt.
            bitmaps: What its media are, by their numbers.
            places: Where the client put them.
            first: Tokens that go before it.

        Raises:
            CarError: One cannot be made ready (``invalid_request``); ``path`` is its place.
        """
        mtmd = self.mtmd
        chunks = self._cut(parts, bitmaps)
        if chunks is None:
            detail = f"the projector {self.name} cannot read it ({recent_errors()}); send another"
            raise invalid_medium(detail, places[self._unreadable(bitmaps)])
        place_of = {bitmap.known_by: place for bitmap, place in zip(bitmaps, places, strict=True)}
        tokens = list(first)
        media: list[Medium] = []
        for index in range(mtmd.mtmd_input_chunks_size(chunks.handle)):
            chunk = mtmd.mtmd_input_chunks_get(chunks.handle, index)
            if mtmd.mtmd_input_chunk_get_type(chunk) == _TEXT:
                tokens += _tokens(mtmd, chunk)
            else:
                medium = self._medium(chunks, chunk, len(tokens), place_of)
                media.append(medium)
                tokens += medium.tokens
        return tokens, media

    def _cut(self, parts: Sequence[Part], bitmaps: Sequence[Bitmap]) -> _Chunks | None:
        """A prompt as mtmd cuts it; ``None`` where it cannot read what is in it."""
        mtmd = self.mtmd
        chunks = _Chunks(mtmd)
        made = [_part(mtmd, part, bitmaps) for part in parts]
        kind = _pointer_to(mtmd.mtmd_input_part)
        pointers = (kind * len(made))(*map(ctypes.pointer, made))
        code = mtmd.mtmd_tokenize_from_parts(self.handle, chunks.handle, pointers, len(made), False)
        return chunks if code == 0 else None

    def _unreadable(self, bitmaps: Sequence[Bitmap]) -> int:
        """The number of the first that mtmd cannot read alone, as it does not tell which it is."""
        alone = (Part("", is_content=False, medium=number) for number in range(len(bitmaps)))
        return next((n for n, part in enumerate(alone) if self._cut([part], bitmaps) is None), 0)

    def _medium(
        self, owner: _Chunks, chunk: Any, start: int, place_of: Mapping[bytes, str]
    ) -> Medium:
        mtmd = self.mtmd
        size: int = mtmd.mtmd_input_chunk_get_n_tokens(chunk)
        whole = bool(mtmd.mtmd_decode_use_non_causal(self.handle, chunk))
        known_by = mtmd.mtmd_input_chunk_get_id(chunk)
        if whole and size > self.batch_tokens:
            detail = f"it takes {size} tokens, {self.batch_tokens} at most; send a smaller one"
            raise invalid_medium(detail, place_of[known_by])
        return Medium(
            projector=self,
            owner=owner,
            chunk=chunk,
            number=-1 - int(known_by, 16),
            start=start,
            positions=mtmd.mtmd_input_chunk_get_n_pos(chunk),
            size=size,
            batch_tokens=size if whole else self._chunk,
        )


class Bitmap:
    """An image or a recording as the projector takes it."""

    def __init__(self, mtmd: Any, handle: Any, kind: bytes, content: bytes) -> None:
        if not handle:
            raise MemoryError
        self.handle = handle
        digest = hashlib.sha256(kind)
        digest.update(content)
        self.known_by = digest.hexdigest().encode()
        mtmd.mtmd_bitmap_set_id(handle, self.known_by)
        weakref.finalize(self, mtmd.mtmd_bitmap_free, handle)


class _Chunks:
    """A prompt as mtmd cuts it; what it holds of images lives as long as this."""

    def __init__(self, mtmd: Any) -> None:
        self.handle = mtmd.mtmd_input_chunks_init()
        weakref.finalize(self, mtmd.mtmd_input_chunks_free, self.handle)


class Medium(NamedTuple):
    """An image, a recording or a part of one in a prompt.

    Attributes:
        projector: What reads it.
        owner: Keeps it in memory.
        chunk: What mtmd knows of it.
        number: What stands for it among the tokens, below 0; another content has another one.
        start: Where it begins.
        positions: How many positions it takes. A model that counts rows and columns puts all
            tokens of an image at one, and goes on behind its longer side.
        size: How many tokens of the context it takes.
        batch_tokens: How many of them are read at once.
    """

    projector: Projector
    owner: _Chunks
    chunk: Any
    number: int
    start: int
    positions: int
    size: int
    batch_tokens: int

    @property
    def tokens(self) -> list[int]:
        """What stands for it among the tokens of the prompt."""
        return [self.number] * self.positions

    @property
    def end(self) -> int:
        """Where the prompt goes on behind it."""
        return self.start + self.positions

    def read(self, context: Context, sequence: int, owner: Job) -> None:
        """Let the model read it, behind what a sequence holds.

        Raises:
            DecodeError: It failed, or its request was cancelled; the sequence may hold a part.
        """
        mtmd, handle = self.projector.mtmd, self.projector.handle
        if mtmd.mtmd_encode_chunk(handle, self.chunk) != 0:
            raise DecodeError(_NOT_ENCODED)
        end = lib.llama_pos(self.start)
        context.run(
            lambda: mtmd.mtmd_helper_decode_image_chunk(
                handle,
                context.handle,
                self.chunk,
                mtmd.mtmd_get_output_embd(handle),
                self.start,
                sequence,
                self.batch_tokens,
                ctypes.byref(end),
                mtmd.mtmd_helper_post_decode_callback(),
                None,
            ),
            owner,
        )


def invalid_medium(detail: str, place: str) -> CarError:
    """The refusal of an image or a recording that cannot be used."""
    return CarError("invalid_request", f"{detail} - at `{place}`", path=place)


def unread(block: MediaBlock, place: str, reason: str) -> CarError:
    """The refusal of an image or a recording that a model does not read."""
    kind, does = ("image", "see") if isinstance(block, ImageBlock) else ("audio", "hear")
    detail = f"this model does not {does}: {reason}; use one that does - at `{place}`"
    return unsupported_mode(f"{kind}-content-block", BACKEND, detail, path=place)


def _part(mtmd: Any, part: Part, bitmaps: Sequence[Bitmap]) -> Any:
    if part.medium is not None:
        return mtmd.mtmd_input_part(bitmap=bitmaps[part.medium].handle)
    data = part.text.encode()
    text = mtmd.mtmd_input_text(
        text=data, text_len=len(data), add_special=False, parse_special=not part.is_content
    )
    return mtmd.mtmd_input_part(text=ctypes.pointer(text))


def _tokens(mtmd: Any, chunk: Any) -> list[int]:
    count = ctypes.c_size_t()
    tokens = mtmd.mtmd_input_chunk_get_tokens_text(chunk, ctypes.byref(count))
    return list(tokens[: count.value])


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except OSError as error:
        raise CarError(
            "io_error", f"cannot read the projector {path}: {error.strerror}", path=path
        ) from error


def _load_error(path: str) -> CarError:
    return CarError(
        "model_load_failed",
        f"the projector {path} does not fit the model, or is none; take the one that was published"
        f" with it ({recent_errors()})",
        path=path,
    )
