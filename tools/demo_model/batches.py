"""Training batches: tokens and the weight of each in the loss."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import NamedTuple

import torch
from corpus import Sample, sample_stream, texts
from tokenizers import Tokenizer
from torch import Tensor

#: The longest row, in tokens; the context length that may be claimed is never more.
MAX_TOKENS = 2048
POOL = 768  #: samples that are sorted by length together


class Batch(NamedTuple):
    """``ids`` [rows, T]; ``weights`` [rows, T] weigh the prediction of the *same* position."""

    ids: Tensor
    weights: Tensor


def weigh(tok: Tokenizer, s: Sample, rng: random.Random) -> tuple[list[int], list[float]]:
    """Token ids of a sample and the loss weight of each.

    The answer weighs 2/sqrt(n) per token, so that long answers do not drown short ones. Earlier
    answers of a chat weigh half of that, without their first token (they have no <think>). Of the
    rest of the prompt 15 % of the tokens weigh 0.12, so that the model also learns the language.
    """
    prompt, answer = texts(s)
    ids = tok.encode(prompt, add_special_tokens=False).ids
    start, end = tok.token_to_id("<|im_start|>"), tok.token_to_id("<|im_end|>")
    role = tok.encode("assistant\n", add_special_tokens=False).ids
    weights = [0.12 if rng.random() < 0.15 else 0.0 for _ in ids]
    position = 0
    while start in ids[position:]:
        position = ids.index(start, position) + 1
        if ids[position : position + len(role)] == role and end in ids[position:]:
            first, last = position + len(role) + 1, ids.index(end, position)
            for i in range(first, last + 1):
                weights[i] = 1.0 / max(last - first + 2, 1) ** 0.5
    out = [*tok.encode(answer, add_special_tokens=False).ids, end]
    weights += [s.weight * 2.0 / len(out) ** 0.5] * len(out)
    return ids + out, weights


def pool(tok: Tokenizer, seed: int, budget: int, ranks: int, stage: int) -> list[list[Batch]]:
    """Steps made of one pool of samples: for each step one batch per process.

    Rows of like length share a batch (``budget`` tokens with padding), lengths are rounded up to
    16 (torch keeps a kernel per shape), and the order of the steps is shuffled.
    """
    rng = random.Random(seed)
    stream = sample_stream(seed, stage=stage)
    rows = [weigh(tok, next(stream), rng) for _ in range(POOL)]
    rows = sorted((r for r in rows if len(r[0]) <= MAX_TOKENS), key=lambda r: len(r[0]))
    groups: list[list[tuple[list[int], list[float]]]] = [[]]
    for row in rows:
        if (len(groups[-1]) + 1) * _round(len(row[0])) > budget and groups[-1]:
            groups.append([])
        groups[-1].append(row)
    steps = [groups[i : i + ranks] for i in range(0, len(groups) - ranks + 1, ranks)]
    rng.shuffle(steps)
    return [[_batch(g) for g in step] for step in steps]


def _round(n: int) -> int:
    return (n + 15) // 16 * 16


def _batch(group: list[tuple[list[int], list[float]]]) -> Batch:
    length = _round(max(len(ids) for ids, _ in group))
    ids = torch.zeros(len(group), length, dtype=torch.long)
    weights = torch.zeros(len(group), length)
    for i, (row, w) in enumerate(group):
        ids[i, : len(row)] = torch.tensor(row)
        weights[i, : len(w)] = torch.tensor(w)
    return Batch(ids, weights)


def stream(
    tok: Tokenizer, seed: int, budget: int, ranks: int, step: int, stage: int
) -> Iterator[list[Batch]]:
    """Endless steps. A run that continues at ``step`` starts with pools not yet used.

    A pool holds more than one step, so that pool number ``step`` is always a new one.
    """
    index = step
    while True:
        yield from pool(tok, seed + index, budget, ranks, stage)
        index += 1
