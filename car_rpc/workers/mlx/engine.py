"""The engine that a worker runs for a folder of MLX weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from car_rpc.errors import unsupported_mode
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
from car_rpc.workers.mlx.encoder import MlxEncoder
from car_rpc.workers.mlx.folder import open_folder, unusable
from car_rpc.workers.mlx.generator import Generator, MlxGeneration
from car_rpc.workers.mlx.model import Model, out_of_memory
from car_rpc.workers.mlx.native import BACKEND, is_out_of_memory, version
from car_rpc.workers.mlx.prefixes import Prefixes
from car_rpc.workers.mlx.reader import MlxReader
from car_rpc.workers.mlx.vocab import Vocab
from car_rpc.workers.serial import SerialQueue
from car_rpc.workers.slots import KV_BUDGET_BYTES, context_length, slot_count

if TYPE_CHECKING:
    from collections.abc import Callable

    from car_rpc.workers.job import Job

#: Most memory for what is kept of earlier prompts, in bytes: half of what running answers get.
PREFIX_BUDGET_BYTES = KV_BUDGET_BYTES // 2


class MlxEngine:
    """One folder of MLX weights: generates, embeds, judges, tokenizes."""

    _vocab: Vocab
    _model: Model
    _prompter: Prompter
    _generator: Generator
    _preparation: Preparation
    _embedder: Embedder
    _judge: Judge
    _context_length: int

    def __init__(self) -> None:
        self._judging = SerialQueue()

    def load(self, load: Load, progress: Callable[[float], None]) -> Loaded:
        """Load the folder and generate once."""
        folder = open_folder(load.path)
        if load.pooling == "rank":
            problem = "has no head for ranking, as no model of mlx-lm has; register it without"
            raise unusable(folder.path, f"{problem} `pooling`, or a GGUF file of the model")
        self._vocab = Vocab(folder)
        self._prompter = Prompter(self._vocab, folder.chat_template, BACKEND)
        self._preparation = Preparation(self._vocab, self._prompter.family, BACKEND)
        self._model = model = Model(folder, progress, load.adapters)
        self._context_length = context_length(load.context_length, folder.context_trained)
        slot_bytes = self._context_length * model.kv_bytes_per_token
        try:
            slots = slot_count(slot_bytes)
        except MemoryError as error:
            raise out_of_memory(Path(load.path)) from error
        prefixes = Prefixes(PREFIX_BUDGET_BYTES, can_be_cut=model.plain_attention)
        self._generator = Generator(model, slots, slot_bytes, prefixes)
        pooling = load.pooling or folder.pooling
        self._embedder = Embedder(MlxEncoder(model, self._vocab, pooling, self._context_length))
        reader = MlxReader(model, self._context_length)
        self._judge = Judge(reader, self._vocab, self._prompter, BACKEND)
        return Loaded(
            context_length=self._context_length,
            context_trained=folder.context_trained,
            context_is_fixed=True,
            model_bytes=model.size_bytes,
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
        self._preparation.step()
        try:
            generates, embeds = self._generator.step(), self._embedder.step()
            judges = self._judging.step()
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise MemoryError from error
            raise
        return generates or embeds or judges

    def reset(self) -> None:
        """Forget all work."""
        self._preparation.reset()
        self._generator.reset()
        self._embedder.reset()
        self._judging.reset()

    def _start_generation(self, job: Job, request: Generate) -> None:
        job.rendering()
        prompt = self._prompter.prompt(request)
        generation = MlxGeneration(
            job, request, prompt, self._vocab, self._model.vocab_size, self._context_length
        )
        job.rendered(len(prompt.tokens))
        self._preparation.add(generation, request, lambda: self._generator.add(generation))


def make_engine() -> MlxEngine:
    """An engine with no model yet."""
    return MlxEngine()
