"""Conversations with images and sound, made ready beside the engine, which never waits for them.

Files are decoded and cut into what the projector takes in one thread of their own. The engine then
reads an image as it reads a chunk of a prompt.
"""

from __future__ import annotations

import base64
import binascii
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from car_rpc.errors import CarError
from car_rpc.wire.content import Base64Source, ImageBlock
from car_rpc.wire.media import media_of
from car_rpc.workers.audio import Samples, open_audio
from car_rpc.workers.image import read_image
from car_rpc.workers.job import request_failure
from car_rpc.workers.llama_cpp.projector import invalid_medium, unread

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from car_rpc.wire.media import MediaBlock
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompt import Part
    from car_rpc.workers.chat.prompter import Prompt, Prompter
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.projector import Bitmap, Medium, Projector
    from car_rpc.workers.llama_cpp.vocab import Vocab

#: Longest recording, in seconds: at 12 to 50 tokens a second more than most contexts hold.
MAX_SOUND_S = 600

#: Shortest recording, in seconds; silence is put behind a shorter one. mtmd looks at hundredths of
#: a second at once, and ends the process where there is next to nothing.
MIN_SOUND_S = 0.1

#: Most pixels of all images of a request together; see `car_rpc.workers.image.MAX_PIXELS`.
MAX_PIXELS_TOGETHER = 128_000_000


class _Entry(NamedTuple):
    job: Job
    prompt: Future[Prompt]
    start: Callable[[Prompt], None]


class MediaReader:
    """Makes prompts of conversations with images and sound.

    Args:
        projector: What reads them.
        prompter: What makes prompts.
        vocab: The model's vocabulary.
    """

    def __init__(self, projector: Projector, prompter: Prompter, vocab: Vocab) -> None:
        self._projector = projector
        self._prompter = prompter
        self._vocab = vocab
        self._pool = ThreadPoolExecutor(1, "media")
        self._waiting: list[_Entry] = []

    def add(self, job: Job, request: Generate, start: Callable[[Prompt], None]) -> None:
        """Start an answer as soon as its prompt is ready.

        Raises:
            CarError: ``unsupported_mode`` for what the projector does not read.
        """
        for block, place in zip(media_of(request.messages), request.places, strict=True):
            is_image = isinstance(block, ImageBlock)
            if not (self._projector.sees if is_image else self._projector.hears):
                raise unread(block, place, f"its projector {self._projector.name} does not")
        prompt = self._pool.submit(self._prompt, job, request)
        self._waiting.append(_Entry(job, prompt, start))
        prompt.add_done_callback(lambda _: job.wake())

    def step(self) -> None:
        """Start the answers whose prompts are ready."""
        waiting, self._waiting = self._waiting, []
        for entry in waiting:
            if entry.job.cancelled.is_set():
                entry.prompt.cancel()
            elif entry.prompt.done():
                _start(entry)
            else:
                self._waiting.append(entry)

    def reset(self) -> None:
        """Forget the answers that wait."""
        self._waiting.clear()

    def _prompt(self, job: Job, request: Generate) -> Prompt:
        bitmaps: list[Bitmap] = []
        room = MAX_PIXELS_TOGETHER
        for block, place in zip(media_of(request.messages), request.places, strict=True):
            if job.cancelled.is_set():
                raise CarError("cancelled")
            try:
                content = _content(block)
                if isinstance(block, ImageBlock):
                    bitmap, pixels = self._image(content, room)
                    room -= pixels
                else:
                    bitmap = self._sound(content)
            except CarError as error:
                raise invalid_medium(error.detail, place) from error
            bitmaps.append(bitmap)

        def tokenize(parts: Sequence[Part]) -> tuple[list[int], Sequence[Medium]]:
            first = self._vocab.first_tokens(parts)
            return self._projector.tokenize(parts, bitmaps, request.places, first)

        job.rendering()
        prompt = self._prompter.prompt(request, tokenize)
        job.rendered(prompt.size)
        if prompt.tokens[-1] < 0:
            detail = (
                "the model's own chat template puts an image at the end, where no answer begins"
            )
            raise invalid_medium(detail, request.places[-1])
        return prompt

    def _image(self, content: bytes, room: int) -> tuple[Bitmap, int]:
        pixels = read_image(content)
        count = pixels.width * pixels.height
        if count > room:
            detail = f"the images of a request may have {MAX_PIXELS_TOGETHER} pixels together"
            raise CarError("invalid_request", detail)
        return self._projector.image(content, pixels), count

    def _sound(self, content: bytes) -> Bitmap:
        rate, blocks, length = self._projector.sound_rate, list[Samples](), 0
        with open_audio(content, "") as audio:
            for block in audio.blocks(rate):
                blocks.append(block)
                length += len(block)
                if length > MAX_SOUND_S * rate:
                    detail = f"the audio is longer than {MAX_SOUND_S} s; send a part of it"
                    raise CarError("invalid_request", detail)
        blocks.append(np.zeros(max(0, round(MIN_SOUND_S * rate) - length), np.float32))
        return self._projector.sound(content, np.concatenate(blocks))


def _content(block: MediaBlock) -> bytes:
    source = block.source
    if not isinstance(source, Base64Source):  # the core sends nothing else
        raise CarError("invalid_request", "it is not sent as `base64`")
    try:
        return base64.b64decode(source.data, validate=True)
    except (binascii.Error, ValueError) as error:
        raise CarError("invalid_request", f"its `data` is not base64: {error}") from error


def _start(entry: _Entry) -> None:
    try:
        entry.start(entry.prompt.result())
    except Exception as error:  # noqa: BLE001 - one bad image must not end the others' answers
        entry.job.fail(request_failure(error))
