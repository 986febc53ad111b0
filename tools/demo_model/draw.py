"""The seeded source of every random choice, and the shape of one sample."""

from __future__ import annotations

import random
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import lexicon as lx

T = TypeVar("T")
Message = dict[str, Any]

ONSETS = "b br c ch d dr f fl g gr h j k kr l m n p pl qu r s sh sk st t th tr v w z".split()
VOWELS = "a e i o u a e i o u ai ea ee oa oo ou".split()
CODAS = " | | |n|r|l|s|t|m|x|k|nd|rk|sh|st|lt|p|ck|ng".replace(" ", "").split("|")


@dataclass
class Sample:
    """One conversation whose last answer is to be learned or predicted."""

    skill: str
    messages: list[Message]
    answer: str
    think: str
    tools: list[Message] | None = None
    key: str = ""  #: what decides train or held out; empty = always in the training part
    check: str = "exact"  #: how evaluate.py judges: exact, story, json, tool or done
    weight: float = 1.0  #: of the answer in the training loss
    thinking: bool = False
    meta: dict[str, Any] = field(default_factory=dict)


class Draw(random.Random):
    """Random choices that know which part of the data they are for.

    ``split`` is ``train``, ``combo`` (known phrasings, combinations kept out of training) or
    ``phrasing`` (only phrasings kept out of training).
    """

    def __init__(self, seed: int, split: str = "train") -> None:
        super().__init__(seed)
        self.split = split

    def frame(self, frames: Sequence[str]) -> str:
        """Pick a phrasing; of lists with four or more, the last one is never trained on."""
        if len(frames) < 4:
            return self.choice(frames)
        return frames[-1] if self.split == "phrasing" else self.choice(frames[:-1])

    def chance(self, p: float) -> bool:
        return self.random() < p

    def pick(self, weighted: Sequence[tuple[float, T]]) -> T:
        return self.choices([w[1] for w in weighted], [w[0] for w in weighted])[0]

    def coin(self, syllables: int | None = None) -> str:
        """An invented word: the model must copy it, since it cannot have memorised it."""
        n = syllables or self.choice((1, 2, 2, 2, 3))
        parts = [self.choice(ONSETS) + self.choice(VOWELS) + self.choice(CODAS) for _ in range(n)]
        word = "".join(parts)
        if self.chance(0.04):  # a few accents, so that other bytes are copied too
            word = word.replace(self.choice("aeiou"), self.choice("äöüéèñåçøßğł"), 1)
        return word

    def name(self) -> str:
        return self.choice(lx.NAMES) if self.chance(0.5) else self.coin().capitalize()

    def city(self) -> str:
        return self.choice(lx.CITIES) if self.chance(0.6) else self.coin().capitalize()

    def noun(self) -> str:
        """A thing one can own, buy or look for."""
        r = self.random()
        if r < 0.3:
            return self.choice(lx.ITEMS)
        if r < 0.4:
            return self.choice(lx.FOODS)
        if r < 0.6:
            return self.choice(self.choice(list(lx.TOPICS.values()))[0].split())
        return self.coin()

    def code(self) -> str:
        """A short identifier such as ``K7-204``."""
        letters = "ABCDEFGHJKLMNPQRSTUVWXYZ"
        shape = self.choice(("{a}{n}", "{a}{b}-{n}", "{n}{a}", "{a}{b}{c}{n}"))
        a, b, c = (self.choice(letters) for _ in range(3))
        return shape.format(a=a, b=b, c=c, n=self.randint(1, 999))

    def words(self, low: int, high: int) -> str:
        return " ".join(self.noun() for _ in range(self.randint(low, high)))


def held_out(key: str) -> bool:
    """One key in ten is never trained on."""
    return bool(key) and zlib.crc32(key.lower().encode()) % 10 == 0


def user(text: str) -> Message:
    return {"role": "user", "content": text}


def assistant(text: str) -> Message:
    return {"role": "assistant", "content": text}


def system(text: str) -> Message:
    return {"role": "system", "content": text}


def article(noun: str) -> str:
    """``a`` or ``an`` before the noun."""
    return ("an " if noun[0].lower() in "aeiou" else "a ") + noun


def sentence(text: str) -> str:
    """The text with a capital first letter."""
    return text[:1].upper() + text[1:]
