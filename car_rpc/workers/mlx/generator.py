"""Generate several answers at once, in one batch."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any

import numpy as np

from car_rpc.workers.generation import Generation
from car_rpc.workers.likelihood import likely
from car_rpc.workers.mlx.model import PREFILL_CHUNK
from car_rpc.workers.mlx.native import mx
from car_rpc.workers.mlx.prefixes import Prefix, Prefixes, cut
from car_rpc.workers.mlx.sampler import Sampler
from car_rpc.workers.prefix import common
from car_rpc.workers.slots import MAX_GROWN_SLOTS, more_slots

if TYPE_CHECKING:
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.job import Job
    from car_rpc.workers.mlx.model import Model
    from car_rpc.workers.mlx.vocab import Vocab


class MlxGeneration(Generation):
    """An answer that takes its turns in the batch.

    Args:
        job: Where it is answered.
        request: What was asked.
        prompt: Its prompt.
        vocab: The model's vocabulary.
        vocab_size: Tokens that the model tells apart.
        context_length: Tokens of context that it may use.

    Raises:
        CarError: The prompt leaves no room (``context_overflow``), or a parameter is wrong.
    """

    def __init__(
        self,
        job: Job,
        request: Generate,
        prompt: Prompt,
        vocab: Vocab,
        vocab_size: int,
        context_length: int,
    ) -> None:
        super().__init__(job, request, prompt, vocab, context_length)
        self._answer_start = prompt.size - prompt.answer_tokens
        self.sampler = Sampler(request.params, vocab_size, self._answer_start)
        self.complete = False
        #: Whether a constraint may have to know of each token before the next one is chosen.
        self._is_followed = bool(request.tools) or request.response_format is not None
        self._likeliest = request.params.logprobs
        #: Where it is asked how likely tokens are: the logits, before any parameter, of those that
        #: were chosen but not taken yet.
        self._logits: deque[Any] = deque()
        self.tokens = list(prompt.tokens)  # the whole sequence so far
        self.read = Prefix()  # the part of it that the model has read, outside of the batch
        self.read_before = self.read_count = 0  # tokens of it: at its last entry, and by now
        self.uses_prefixes = request.prefix_cache
        self.is_entering = False  # the batch has not told a token since it went in

    @property
    def processors(self) -> list[Any]:
        """What changes the logits before a token is chosen of them."""
        note = [self._note] if self._likeliest else []
        constrain = [self._constrain] if self._is_followed else []
        return [*note, *self.sampler.processors, *constrain]

    def resume(self) -> None:
        """Go on behind the last token; what was chosen but not taken yet is chosen anew."""
        self.is_entering = True
        self.pending.clear()
        self._logits.clear()
        self.read_before = self.read_count = len(self.read.tokens)
        self.sampler.position = len(self.tokens) - self._answer_start

    def take(self, token: int) -> None:
        """Take the sampled token, unless it had to be known before."""
        if not self._is_followed:
            self.accept(token)

    def accept(self, token: int) -> bool:
        """Take the sampled token, and those that must follow; tells whether it is complete."""
        if self._likeliest:
            logits = np.array(self._logits.popleft().astype(mx.float32))[0]
            self.tell(likely(logits, token, self._likeliest))
        self.complete = super().accept(token)
        return self.complete

    def _take(self, token: int) -> bool:
        self.tokens.append(token)
        return super()._take(token)

    def _note(self, _tokens: Any, logits: Any) -> Any:
        self._logits.append(logits)
        return logits

    def _constrain(self, tokens: Any, logits: Any) -> Any:
        """The logits of what may follow.

        Args:
            tokens: The whole sequence so far.
            logits: One row.
        """
        if tokens.size > len(self.tokens):
            self.accept(int(tokens[-1].item()))
        # Nothing is made of these logits where the answer ends here, or other tokens must follow.
        if self.constraint is None or self.complete or len(self.pending) > 1:
            return logits
        mask = self.constraint.allowed()
        if mask is None:
            return logits
        allowed = np.zeros(logits.shape[-1], np.bool_)
        allowed[: mask.size] = mask[: allowed.size]
        return mx.where(mx.array(allowed), logits, -mx.inf)


class Generator:
    """Shares one batch between generations, first come, first served.

    A step generates one token of each answer, then reads one chunk of each new prompt. An
    answer that is paused, or waits for its constraint, leaves the batch with what was read of it,
    and keeps its slot.

    Args:
        model: The model. One whose memory cannot be cut gets a batch for one.
        slots: How many generations run at once to begin with.
        slot_bytes: What the cache of each may take.
        prefixes: What is kept of earlier prompts.
    """

    def __init__(self, model: Model, slots: int, slot_bytes: int, prefixes: Prefixes) -> None:
        self._model = model
        self._slots = slots if model.plain_attention else 1
        self._slot_bytes = slot_bytes
        self._prefixes = prefixes
        self.reset()

    def add(self, generation: MlxGeneration) -> None:
        """Queue a generation."""
        self._waiting.append(generation)

    def step(self) -> bool:
        """Advance all; returns whether any can go on at once."""
        self._drop_cancelled()
        self._pause()
        self._admit()
        if self._running:
            self._advance()
        return bool(self._running) or (bool(self._waiting) and self._has_room)

    def reset(self) -> None:
        """Forget all generations, and what is kept of their prompts."""
        self._prefixes.clear()
        self._waiting: deque[MlxGeneration] = deque()
        self._running: dict[int, MlxGeneration] = {}
        self._aside: list[MlxGeneration] = []
        self._batch: Any = self._model.make_batch(
            MAX_GROWN_SLOTS if self._model.plain_attention else 1,
            lambda uid: not self._running[uid].job.cancelled.is_set(),
        )

    def _advance(self) -> None:
        entered = self._entered()
        for uid, token in entered.items():
            self._running[uid].accept(token)
            self._go_on(uid)
        read, said = self._batch.next()
        for prompt in read:
            generation = self._running[prompt.uid]
            generation.read_count = generation.read_before + prompt.progress[0]
        for answer in said:
            if answer.uid not in entered:
                self._running[answer.uid].take(answer.token)
                self._go_on(answer.uid)

    def _entered(self) -> dict[int, int]:
        """The first token of each answer that has just entered.

        mlx-lm tells a token when the step behind it is queued, which keeps a GPU busy. On a
        processor all but ten operations of that step are then computed (eval_impl in MLX's
        transforms.cpp), so it would come a step late. A GPU has a gap for each answer in return.
        """
        batch = self._batch._generation_batch
        entered = [self._running[uid].is_entering for uid in batch.uids]
        if not any(entered):
            return {}
        tokens = batch._next_tokens.tolist()
        told = zip(batch.uids, tokens, entered, strict=True)
        return {uid: token for uid, token, is_entering in told if is_entering}

    def _go_on(self, uid: int) -> None:
        """Answer, wait or read what must follow, where a token was that asks for it."""
        generation = self._running[uid]
        generation.is_entering = False
        if generation.complete:
            self._finish(uid)
        elif generation.waits:  # at once: what was chosen to follow was chosen without a constraint
            self._set_aside(uid)
        elif len(generation.pending) > 1:  # what must follow is read in one go
            generation.read = self._leave(uid)
            self._enter(generation)

    @property
    def _has_room(self) -> bool:
        return len(self._running) + len(self._aside) < self._slots

    def _drop_cancelled(self) -> None:
        self._waiting = deque(each for each in self._waiting if not each.job.cancelled.is_set())
        self._aside = [each for each in self._aside if not each.job.cancelled.is_set()]
        for uid, generation in list(self._running.items()):
            if generation.job.cancelled.is_set():
                self._leave(uid)

    def _pause(self) -> None:
        for uid, generation in list(self._running.items()):
            if not generation.job.running.is_set():
                self._set_aside(uid)

    def _set_aside(self, uid: int) -> None:
        generation = self._running[uid]
        generation.read = _computed(self._leave(uid))
        self._aside.append(generation)

    def _admit(self) -> None:
        for generation in list(self._aside):
            if generation.advances:
                self._aside.remove(generation)
                self._enter(generation)
        if self._waiting and not self._has_room and self._model.plain_attention:
            self._slots = more_slots(
                self._slots,
                self._slot_bytes,
                len(self._running) + len(self._aside) + len(self._waiting),
            )
        for generation in list(self._waiting):
            if not self._has_room:
                return
            if self._is_being_read(generation):
                continue
            self._waiting.remove(generation)
            if generation.uses_prefixes:
                generation.read = self._known(generation)
                generation.cached_tokens = min(len(generation.read.tokens), generation.asked_tokens)
            self._enter(generation)

    def _is_being_read(self, generation: MlxGeneration) -> bool:
        """Whether another is about to read much of the same prompt, which is worth a wait."""
        return generation.uses_prefixes and any(
            other.uses_prefixes
            and common(other.prompt, generation.prompt) >= other.read_count + PREFILL_CHUNK
            for other in self._running.values()
        )

    def _known(self, generation: MlxGeneration) -> Prefix:
        """What was read before of its sequence, also by those that still run."""
        known = self._prefixes.find(generation.tokens)
        for uid, other in self._running.items():
            shared = common(other.tokens[: other.read_count], generation.tokens)
            if other.uses_prefixes and shared >= len(known.tokens) + PREFILL_CHUNK:
                cache, tokens = self._batch.extract_cache([uid])[uid]
                self._prefixes.put(_computed(Prefix(list(tokens), cache)))
                known = self._prefixes.find(generation.tokens)
        return known

    def _enter(self, generation: MlxGeneration) -> None:
        """Let the batch read what is unread, which ends with the token to go on from."""
        read = generation.read = self._usable_read(generation)
        generation.resume()
        generation.read = Prefix()
        (uid,) = self._batch.insert(
            [generation.tokens[len(read.tokens) :]],
            caches=[read.cache or None],
            all_tokens=[list(read.tokens)],  # which the batch lengthens
            samplers=[generation.sampler.choose],
            logits_processors=[generation.processors],
        )
        self._running[uid] = generation

    def _usable_read(self, generation: MlxGeneration) -> Prefix:
        """What was read, cut so that at least one token is left to read."""
        read, most = generation.read, len(generation.tokens) - 1
        if len(read.tokens) <= most:
            return read
        return cut(read, most) if self._model.plain_attention else Prefix()

    def _finish(self, uid: int) -> None:
        self._running[uid].job.reply()  # before what waits for the step under way
        self._leave(uid)

    def _leave(self, uid: int) -> Prefix:
        """Take a generation out of the batch; returns what was read of it."""
        generation = self._running.pop(uid)
        cache, tokens = self._batch.remove([uid], return_prompt_caches=True)[uid]
        read = Prefix(list(tokens), cache or [])
        if generation.uses_prefixes:
            self._prefixes.put(_computed(read))
        return read


def _computed(prefix: Prefix) -> Prefix:
    """The same, computed: until then it holds on to what the whole batch remembers."""
    if prefix.tokens:
        mx.eval([layer.state for layer in prefix.cache])
    return prefix
