"""Where images and recordings stand in a prompt.

A mark stands for each while the template runs, as it does for a text in
:mod:`car_rpc.workers.chat.prompt`. Nobody can guess one, so nobody can write one.
"""

from __future__ import annotations

import re
import secrets
from typing import TYPE_CHECKING, Protocol

from car_rpc.errors import CarError
from car_rpc.wire.media import media_of
from car_rpc.workers.chat.prompt import Part

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.wire.media import MediaBlock
    from car_rpc.wire.worker import Generate


class Medium(Protocol):
    """An image, a recording or a part of one as it stands among the tokens of a prompt."""

    @property
    def start(self) -> int:
        """Where it begins."""
        ...

    @property
    def positions(self) -> int:
        """How many places it takes there."""
        ...

    @property
    def size(self) -> int:
        """How many tokens of the context it takes; some models put many in one place."""
        ...


class MediaMarks:
    """The marks of one request.

    Args:
        request: The request.
    """

    def __init__(self, request: Generate) -> None:
        self._key = secrets.token_hex(8)
        self._places = request.places
        self._numbers = {id(block): n for n, block in enumerate(media_of(request.messages))}

    def put(self, block: MediaBlock) -> str:
        """The mark of a block."""
        return f"{self._key}-{self._numbers[id(block)]}-"

    def split(self, parts: Sequence[Part]) -> list[Part]:
        """Cut parts at the marks.

        Raises:
            CarError: The template left one out, or put one twice (``invalid_request``).
        """
        found = [part for whole in parts for part in self._split(whole)]
        shown = [part.medium for part in found if part.medium is not None]
        for number in self._numbers.values():
            if shown.count(number) != 1:
                place = self._places[number]
                detail = (
                    "the model's own chat template has no place for this; send it in the last"
                    f" user turn - at `{place}`"
                )
                raise CarError("invalid_request", detail, path=place)
        return found

    def _split(self, whole: Part) -> list[Part]:
        pieces = re.split(f"{self._key}-(\\d+)-", whole.text)
        parts = [
            # re.split puts the groups in between.
            whole._replace(text=piece) if n % 2 == 0 else Part("", False, int(piece))
            for n, piece in enumerate(pieces)
        ]
        return [part for part in parts if part.text or part.medium is not None]
