"""The engine that a worker runs for a GGUF model."""

from __future__ import annotations

from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

from car_rpc.errors import unsupported_mode
from car_rpc.wire.media import media_of
from car_rpc.wire.worker import (
    Detokenize,
    Embed,
    Generate,
    Load,
    Loaded,
    Rank,
    Score,
    Tokenize,
)
from car_rpc.workers.chat.prompter import Prompter
from car_rpc.workers.constraint.preparation import Preparation
from car_rpc.workers.embedding import Embedder
from car_rpc.workers.judge import Judge
from car_rpc.workers.llama_cpp.context import FLASH_AUTO, Context, leaves_out_flash_attention
from car_rpc.workers.llama_cpp.encoder import POOLING_RANK, LlamaEncoder, pooling_type
from car_rpc.workers.llama_cpp.footprint import footprint
from car_rpc.workers.llama_cpp.generation import PREFILL_CHUNK, LlamaGeneration
from car_rpc.workers.llama_cpp.generator import Generator
from car_rpc.workers.llama_cpp.generators import SHORT_ROOM, Generators
from car_rpc.workers.llama_cpp.model import Model, out_of_memory
from car_rpc.workers.llama_cpp.native import BACKEND, version
from car_rpc.workers.llama_cpp.projector import Projector, unread
from car_rpc.workers.llama_cpp.reader import LlamaHead, LlamaReader
from car_rpc.workers.llama_cpp.speculation import MAX_ROWS, speculator_for
from car_rpc.workers.llama_cpp.vocab import Vocab
from car_rpc.workers.serial import SerialQueue
from car_rpc.workers.slots import (
    FIRST_CONTEXT_LENGTH,
    context_length,
    longest_context,
    saved_budget,
    slot_count,
    slots_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.chat.prompter import Prompt
    from car_rpc.workers.job import Job
    from car_rpc.workers.llama_cpp.media import MediaReader

#: Of the host's memory for prompts that had to make room, short ones get one part in so many.
_SHORT_PART = 8

_F32_BYTES = 4


class LlamaEngine:
    """One GGUF model: generates, embeds, judges, tokenizes."""

    _vocab: Vocab
    _embedder: Embedder
    _judge: Judge
    _prompter: Prompter | None = None
    _generators: Generators | None = None
    _preparation: Preparation | None = None
    _media: MediaReader | None = None
    _context_length: int

    def __init__(self) -> None:
        self._judging = SerialQueue()

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """Load the file and create a context to generate in."""
        model = Model(load.path, progress, load.adapters)
        # Of a head that is not there llama.cpp would give numbers without a meaning.
        ranks = load.has_rank_head and pooling_type(model, load.pooling) == POOLING_RANK
        self._vocab = Vocab(model.vocab)
        self._context_length = context_length(load.context_length, model.context_train)
        projector = Projector(load.projector, model, PREFILL_CHUNK) if load.projector else None
        if model.generates:
            batch_tokens = PREFILL_CHUNK if projector is None else projector.batch_tokens
            try:
                self._generators = self._make_generators(model, load, batch_tokens)
            except MemoryError as error:
                raise out_of_memory(load.path) from error
            self._prompter = Prompter(self._vocab, model.chat_template, BACKEND)
            self._preparation = Preparation(self._vocab, self._prompter.family, BACKEND)
            if projector is not None:
                # The libraries for images and sound are loaded where they are needed.
                media = import_module("car_rpc.workers.llama_cpp.media")
                self._media = media.MediaReader(projector, self._prompter, self._vocab)
        encoder = LlamaEncoder(model, self._vocab, load.pooling, self._context_length)
        self._embedder = Embedder(encoder)
        read = (model, self._vocab, self._context_length)
        head = LlamaHead(*read) if ranks else None
        self._judge = Judge(LlamaReader(*read), self._vocab, self._prompter, BACKEND, head)
        speculator = None if self._generators is None else self._generators.speculator
        others = [each.size_bytes for each in (projector, speculator) if each is not None]
        return Loaded(
            context_length=self._longest,
            context_trained=model.context_train,
            context_is_fixed=not model.can_move,
            model_bytes=model.size_bytes + sum(others),
            engine=version(),
        )

    def start(self, job: Job) -> None:
        """Answer short requests at once, queue the others."""
        request = job.request
        if isinstance(request, Generate):
            self._start_generation(job, request)
        elif isinstance(request, Embed):
            self._embedder.add(job, request)
        elif isinstance(request, Score):
            self._judging.add(job, self._judge.score(job, request))
        elif isinstance(request, Rank):
            self._judging.add(job, self._judge.rank(job, request))
        elif isinstance(request, Tokenize):
            job.reply(self._vocab.tokenize(request.text, special=True))
        elif isinstance(request, Detokenize):
            job.reply(self._vocab.detokenize(request.tokens))
        else:
            raise unsupported_mode("transcribe", BACKEND, "use a model of the `system` source")

    def step(self) -> bool:
        """Advance all answers, one batch of texts and one thing to judge."""
        if self._media is not None:
            self._media.step()
        if self._preparation is not None:
            self._preparation.step()
        generates = self._generators is not None and self._generators.step()
        embeds = self._embedder.step()
        judges = self._judging.step()
        return generates or embeds or judges

    def reset(self) -> None:
        """Forget all work."""
        if self._generators is not None:
            self._generators.reset()
        if self._preparation is not None:
            self._preparation.reset()
        if self._media is not None:
            self._media.reset()
        self._embedder.reset()
        self._judging.reset()

    def _start_generation(self, job: Job, request: Generate) -> None:
        if self._generators is None or self._prompter is None or self._preparation is None:
            raise unsupported_mode("generate", BACKEND, "this model only embeds")
        add, prepare = self._generators.add, self._preparation.add

        def start(prompt: Prompt) -> None:
            generation = LlamaGeneration(job, request, prompt, self._vocab, self._longest)
            prepare(generation, request, lambda: add(generation))

        media = media_of(request.messages)
        if media and self._media is None:
            raise unread(media[0], request.places[0], "it was loaded without a projector")
        if media and self._media is not None:
            self._media.add(job, request, start)
            return
        job.rendering()
        prompt = self._prompter.prompt(request)
        job.rendered(prompt.size)
        start(prompt)

    @property
    def _longest(self) -> int:
        """Tokens of context that one request may use at most."""
        generators = self._generators
        return self._context_length if generators is None else generators.longest

    def _make_generators(self, model: Model, load: Load, batch_tokens: int) -> Generators:
        speculation = load.speculation

        def make_context(slots: int, room: int, **settings: Any) -> Context:
            return Context(
                model,
                batch_tokens,
                n_ctx=room * slots,
                n_seq_max=slots,
                # The default reserves logits for a whole batch.
                outputs=slots if speculation is None else max(slots, MAX_ROWS),
                # A slot's room is its own: no long answer starves the others, and what others
                # hold does not slow one down.
                kv_unified=False,
                **settings,
            )

        sequence_bytes = footprint(model, batch_tokens).of
        # Without flash attention there is a number for each head, token of a batch and place.
        scores = batch_tokens * (model.heads + 1) * _F32_BYTES * leaves_out_flash_attention()

        def slot_bytes(room: int) -> int:
            # The slots share the last, so this is from above.
            return sequence_bytes(room) + scores * room

        room = most = self._context_length
        if load.context_length is None:
            most = model.context_train or most
            room = min(room, FIRST_CONTEXT_LENGTH) if model.can_move else room
        make_speculator = None
        if speculation is not None:
            make_speculator = partial(speculator_for, speculation, model, self._vocab.size, most)
        # Recurrent layers attend to nothing, and guesses are made for one context.
        pays = leaves_out_flash_attention() and not model.recurs and speculation is None
        short_bytes = slot_bytes(SHORT_ROOM) if pays else 0

        def kept(room: int) -> int:
            return slot_count(slot_bytes(room), short_bytes)

        kept_first = kept(room)
        saved_short = saved_budget() // _SHORT_PART if pays else 0
        saved_long = saved_budget() - saved_short

        def make_long() -> Generator:
            return Generator(
                make_context, kept, room, most, slot_bytes, saved_long, make_speculator
            )

        def make_short() -> Generator:
            # The system might promise memory that it does not have.
            if not slots_of(short_bytes, 1):
                raise MemoryError
            make = partial(make_context, flash_attn_type=FLASH_AUTO)
            return Generator(
                make, lambda _: kept_first, SHORT_ROOM, SHORT_ROOM, slot_bytes, saved_short
            )

        def longest() -> int:
            return longest_context(room, most, slot_bytes, slots=0)

        return Generators(make_long, make_short if pays else None, longest)


def make_engine() -> LlamaEngine:
    """An engine with no model yet."""
    return LlamaEngine()
