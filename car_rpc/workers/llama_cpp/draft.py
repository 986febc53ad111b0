"""Draft with a small model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from car_rpc.errors import CarError
from car_rpc.workers.llama_cpp.context import Context, DecodeError, Row
from car_rpc.workers.llama_cpp.native import lib, log_debug
from car_rpc.workers.prefix import common
from car_rpc.workers.speculation.pace import LENGTHS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from car_rpc.workers.llama_cpp.model import Model

#: Tokens that the small model has room for: it guesses what comes next, so it need not know how a
#: long conversation began.
WINDOW = 1024

#: The last tokens of a text that it reads, where the text is not one that it was at.
READ = 256

#: A token that the small model gives less than this is no good guess, nor is what would follow.
_MIN_CHANCE = 0.5

#: Vocabularies of one family may be padded to different sizes, and their first few tokens, such as
#: "unknown", be named differently (llama.cpp's common/speculative.cpp has these numbers).
_MAX_SIZE_DIFFERENCE = 128
_FIRST_COMPARED = 5


class DraftModel:
    """Drafts with a small model, always its likeliest tokens.

    Args:
        model: The small model.
        vocab_size: Tokens of the large model's vocabulary.

    Raises:
        MemoryError: There is no room for its context.
    """

    def __init__(self, model: Model, vocab_size: int) -> None:
        room = min(WINDOW, model.context_train or WINDOW)
        self._context = Context(model, READ, n_ctx=room, n_seq_max=1, outputs=1)
        self._room = self._context.room - LENGTHS[-1]
        self._own_size: int = lib.llama_vocab_n_tokens(model.vocab)
        self._vocab_size = vocab_size
        self._held: list[int] = []  # what its memory holds
        self._start = 0  # where in the text it began to read
        self._text: list[int] = []  # the text from there

    @property
    def can_cut(self) -> bool:
        """Whether it can forget what was wrong."""
        return self._context.can_cut

    @property
    def unread(self) -> int:
        """Tokens that it has to read before it can draft."""
        return len(self._text) - len(self._held)

    def begin(self) -> None:
        """Another text begins."""
        self._start = 0

    def follow(self, read: Sequence[int], pending: Sequence[int]) -> int:
        """Take the text so far; returns the kind of its drafts, which is always the same."""
        length = len(read) + len(pending)
        self._look_back(read, pending)
        if self.unread > READ or len(self._text) > self._room:
            self._start = max(0, length - min(READ, self._room))
            self._look_back(read, pending)
        return 0

    def draft(self, count: int) -> list[int]:
        """At most so many tokens; fewer where it is not sure."""
        drafted: list[int] = []
        fresh = self._text[len(self._held) :]
        try:
            while len(drafted) < count:
                token, chance = self._next(fresh)
                if chance < _MIN_CHANCE or token >= self._vocab_size:
                    break
                drafted.append(token)
                fresh = [token]
        except DecodeError as error:  # its guesses are missed, nothing else
            log_debug(f"the draft model failed (code {error})")
            self._held = []
            self._context.clear()
        return drafted

    def _look_back(self, read: Sequence[int], pending: Sequence[int]) -> None:
        """Forget what is no part of the text; of the last token the logits are needed."""
        self._text = [*read[self._start :], *pending]
        known = min(common(self._held, self._text), len(self._text) - 1)
        if known < len(self._held):
            del self._held[known:]
            self._context.cut(0, known)

    def _next(self, tokens: Sequence[int]) -> tuple[int, float]:
        """The likeliest token after some more, and its probability."""
        start, last = len(self._held), len(tokens) - 1
        rows = [Row(token, start + index, 0, index == last) for index, token in enumerate(tokens)]
        self._context.decode(rows)
        self._held += tokens
        logits: NDArray[np.float32] = self._context.logits(last, self._own_size)
        token = int(logits.argmax())
        return token, 1 / float(np.exp(logits - logits[token]).sum())


def check_vocabulary(model: Model, draft: Model, path: str) -> None:
    """Refuse a draft model whose tokens are others.

    Args:
        model: The large model.
        draft: The small one.
        path: Its file.

    Raises:
        CarError: They are (``model_load_failed``).
    """
    theirs, ours = (lib.llama_vocab_n_tokens(each.vocab) for each in (draft, model))
    reason = f"it has {theirs} tokens, and the model {ours}"
    if abs(theirs - ours) <= _MAX_SIZE_DIFFERENCE:
        text = lib.llama_vocab_get_text
        different = (
            token
            for token in range(_FIRST_COMPARED, min(theirs, ours))
            if text(draft.vocab, token) != text(model.vocab, token)
        )
        token = next(different, None)
        if token is None:
            return
        reason = f"token {token} is another one"
    raise CarError(
        "model_load_failed",
        f"{path} cannot draft for this model, whose vocabulary is not the same: {reason}; name a"
        " smaller model of the same family, or use `lookup`",
        path=path,
    )
