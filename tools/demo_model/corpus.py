"""The seeded corpus: the mixture of skills, rendered through the chat template.

``python corpus.py`` prints some samples; ``sample_stream`` is what the other tools use.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator

import skills_chat as sc
import skills_judge as sj
import skills_talk as st
import skills_tools as so
from draw import Draw, Sample, held_out
from template import completion, render

#: skill -> (generator, share of the training samples)
SKILLS: dict[str, tuple[Callable[[Draw], Sample], float]] = {
    "greet": (st.greet, 3),
    "fact": (st.fact, 9),
    "unknown": (st.unknown, 4),
    "story": (st.story, 4),
    "copy": (st.copy, 6),
    "listing": (st.listing, 3),
    "json": (st.to_json, 8),
    "notes": (st.notes, 8),
    "class_topic": (sj.class_topic, 6),
    "class_sentiment": (sj.class_sentiment, 3.5),
    "class_word": (sj.class_word, 3),
    "relevance": (sj.relevance, 11),
    "tool_call": (so.tool_call, 9),
    "tool_missing": (so.tool_missing, 5),
    "tools_unused": (so.tools_unused, 2.5),
    "tool_result": (so.tool_result, 5),
    "done": (so.done, 4),
    "intro": (sc.intro, 2.5),
    "recall": (sc.recall, 7),
    "chat": (sc.chat, 4),
    "long_chat": (sc.long_chat, 2.2),
    "longest": (sc.longest, 0.7),
}
#: the second stage: yes or no is one bit per sample and is learned last, so it gets most samples
SECOND_STAGE: dict[str, float] = {
    **{name: 0.45 * share for name, (_, share) in SKILLS.items()},
    "relevance": 32, "relevance_easy": 14, "copy": 6, "class_topic": 5, "class_word": 3,
    "fact": 6, "long_chat": 0.7, "longest": 0.2,
}  # fmt: skip
#: the third stage: all skills again, at a falling rate
THIRD_STAGE: dict[str, float] = {
    **{name: share for name, (_, share) in SKILLS.items()},
    "relevance": 16, "relevance_easy": 3, "copy": 9, "class_topic": 8,
    "long_chat": 2, "longest": 0.5,
}  # fmt: skip
#: skills of the later stages only
EXTRA = {"relevance_easy": sj.relevance_easy}
#: the engine asks these with thinking off only
NEVER_THINK = ("relevance", *EXTRA)
#: prompts of the README and of the tests: never held out, or they would not be known
ALWAYS_TRAINED = {
    "hello!", "tell me a short story.", "what is the capital of france?", "my name is ada.",
    "what is the weather in paris?", "my name is ada.what is my name?",
    "ada is 36 years old and lives in paris.",
}  # fmt: skip


#: skills whose last user turn is a plain question that can be worded more freely
LOOSE = ("fact", "unknown", "recall", "chat", "tool_call", "tool_missing", "notes")
PREFIXES = ["Hey, ", "Hi! ", "Please tell me: ", "Quick question: ", "So, ", "Ok, ", "Now, "]
SUFFIXES = [" Thanks.", " Please.", " please", " Thank you!", " I forgot."]


def loosen(d: Draw, s: Sample) -> None:
    """Now and then: a greeting before the question, no punctuation, a thank-you after it."""
    last = s.messages[-1]
    if last["role"] != "user" or "\n" in last["content"] or s.check == "json":
        return
    text = last["content"]
    r = d.random()
    if r < 0.08:
        text = d.choice(PREFIXES) + text[:1].lower() + text[1:]
    elif r < 0.14:
        text = text.rstrip(".?!")
    elif r < 0.18 and text.endswith(("?", ".")):
        text += d.choice(SUFFIXES)
    elif r < 0.22:
        text = text[:1].lower() + text[1:]
    last["content"] = text


def make(skill: str, d: Draw) -> Sample:
    """One sample of a skill that belongs to the split of ``d``."""
    while True:
        s = (EXTRA.get(skill) or SKILLS[skill][0])(d)
        key = "" if s.key.lower() in ALWAYS_TRAINED else s.key
        if d.split == "phrasing" or held_out(key) == (d.split == "combo"):
            s.thinking = d.chance(0.5) and skill not in NEVER_THINK
            if skill in LOOSE and d.split == "train":
                loosen(d, s)
            return s
        if d.split == "combo" and not s.key:
            return s  # a closed set such as the greetings: nothing can be held out


def texts(s: Sample) -> tuple[str, str]:
    """The rendered prompt and what the model should write after it."""
    prompt = render(s.messages, s.tools, s.thinking)
    return prompt, completion(s.think, s.answer, s.thinking)


def sample_stream(seed: int, split: str = "train", stage: int = 1) -> Iterator[Sample]:
    """Endless samples of the mixture."""
    d = Draw(seed, split)
    first = {name: share for name, (_, share) in SKILLS.items()}
    mixture = {1: first, 2: SECOND_STAGE, 3: THIRD_STAGE}[stage]
    names, shares = list(mixture), list(mixture.values())
    while True:
        yield make(d.choices(names, shares)[0], d)


def main() -> None:
    """Print one sample of every skill."""
    d = Draw(int(sys.argv[1]) if len(sys.argv) > 1 else 0, *sys.argv[2:3])
    for name in SKILLS:
        s = make(name, d)
        prompt, answer = texts(s)
        print(f"=== {name} ({len(prompt)} characters, key {s.key!r})")
        print(prompt[-700:] + "\033[1m" + answer + "\033[0m")


if __name__ == "__main__":
    main()
