"""What ``transcribe`` is given: the audio it names or carries."""

from __future__ import annotations

import base64
import binascii
from pathlib import Path

from car_rpc.engine.ports import Recording
from car_rpc.errors import invalid_params
from car_rpc.wire.speech import TranscribeParams


def received(params: TranscribeParams) -> Recording:
    """The audio of a request and what is asked of it.

    Many megabytes take a while, so this is not for the event loop.

    Raises:
        CarError: ``invalid_params`` when there is no audio, or no base64, or no such home.
    """
    audio = None
    path = ""
    if isinstance(params.audio_b64, str):
        audio = _decoded(params.audio_b64)
    elif isinstance(params.audio_path, str):
        path = _absolute(params.audio_path)
    else:
        raise invalid_params("give audio_path or audio_b64", "$.audio_path")
    return Recording(
        audio=audio,
        path=path,
        language=params.language if isinstance(params.language, str) else None,
        prompt=params.prompt if isinstance(params.prompt, str) else None,
        timestamps=params.timestamps,
    )


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise invalid_params(
            f"this is no base64 ({error}); send the file's bytes, without a `data:` prefix",
            "$.audio_b64",
        ) from None


def _absolute(name: str) -> str:
    if not name or "\0" in name:
        raise invalid_params("a path is not empty and holds no null character", "$.audio_path")
    try:
        return str(Path(name).expanduser().absolute())
    except RuntimeError as error:  # ~somebody who has no home here
        raise invalid_params(str(error), "$.audio_path") from None
