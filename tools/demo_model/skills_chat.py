"""Skills over several turns: recall of what was said, and long chats of mixed talk."""

from __future__ import annotations

import lexicon as lx
from draw import Draw, Message, Sample, assistant, system, user
from skills_judge import class_sentiment, class_topic
from skills_talk import copy, fact, greet, listing, notes, story, to_json, unknown

#: what the user says, the reply, the question, the answer, how to draw the value
INTROS = [
    (["My name is {v}.", "I am {v}.", "Hi, I am {v}.", "Hello, my name is {v}.", "You can call me {v}.", "I'm called {v}."],
     "Nice to meet you, {v}!",
     ["What is my name?", "Do you know my name?", "Who am I?", "What's my name?", "Do you remember my name?", "Please tell me what I am called."],
     "Your name is {v}.", lambda d: d.name()),
    (["I live in {v}.", "My home is in {v}.", "I am from {v}.", "My city is {v}.", "I have a flat in {v}."],
     "{v} sounds nice!",
     ["Where do I live?", "In which city do I live?", "Which city is my home?", "Do you know where I live?", "Where is my home?"],
     "You live in {v}.", lambda d: d.city()),
    (["My favorite color is {v}.", "I like the color {v}.", "I love {v} things.", "The color I like best is {v}."],
     "{v} is a nice color.",
     ["What is my favorite color?", "Which color do I like?", "What color do I love?", "Do you remember my favorite color?"],
     "Your favorite color is {v}.", lambda d: d.choice(lx.COLORS) if d.chance(0.7) else d.coin()),
    (["I have a {v}.", "My pet is a {v}.", "I own a {v} at home.", "At home I keep a {v}."],
     "A {v} is a good pet.",
     ["What pet do I have?", "Which pet do I own?", "What is my pet?", "Do you remember my pet?"],
     "Your pet is a {v}.", lambda d: d.choice(lx.PETS) if d.chance(0.7) else d.coin()),
    (["I work as a {v}.", "My job is {v}.", "I am a {v} by profession.", "I earn my money as a {v}."],
     "Being a {v} is a good job.",
     ["What is my job?", "What do I do for work?", "What do I work as?", "Do you know my profession?"],
     "Your job is {v}.", lambda d: d.choice(lx.JOBS) if d.chance(0.7) else d.coin()),
    (["I am {v} years old.", "My age is {v}.", "I turned {v} this year.", "I was born {v} years ago."],
     "{v} is a good age.",
     ["How old am I?", "What is my age?", "Do you know my age?", "Tell me how old I am."],
     "You are {v} years old.", lambda d: str(d.randint(5, 99))),
    (["I like {v}.", "I love {v}.", "My favorite food is {v}.", "I could eat {v} every day."],
     "{v} tastes good.",
     ["What do I like to eat?", "What is my favorite food?", "Which food do I like?", "Do you know what I like to eat?"],
     "You like {v}.", lambda d: d.choice(lx.FOODS) if d.chance(0.7) else d.coin()),
    (["My hobby is {v}.", "In my free time I do {v}.", "I spend my weekends with {v}.", "For fun I do {v}."],
     "{v} is fun.",
     ["What is my hobby?", "What do I do in my free time?", "Which hobby do I have?", "What do I do for fun?"],
     "Your hobby is {v}.", lambda d: d.choice(lx.HOBBIES) if d.chance(0.7) else d.coin()),
    (["The code is {v}.", "Remember the code {v}.", "My code is {v}.", "Please keep this code in mind: {v}"],
     "I will remember the code {v}.",
     ["What is the code?", "Which code did I give you?", "Tell me the code.", "Do you remember the code?"],
     "The code is {v}.", lambda d: d.code()),
]  # fmt: skip
FORGOTTEN = "You have not told me that."


def _cap(text: str) -> str:
    return text[:1].upper() + text[1:]


def _intro(d: Draw, kind: tuple) -> tuple[list[Message], str, str, str]:
    """The turns, the later question, its answer, and what the user said."""
    said, reply, asks, answer, value = kind
    v = value(d)
    text = d.frame(said).format(v=v)
    turns = [user(text), assistant(_cap(reply.format(v=v)))]
    return turns, d.frame(asks), answer.format(v=v), text


def intro(d: Draw) -> Sample:
    """The first reply to what the user says about themselves."""
    turns, _, _, text = _intro(d, d.choice(INTROS))
    return Sample("intro", [turns[0]], turns[1]["content"], "The user tells me a fact.", key=text)


FILLERS = [
    (3, greet), (4, fact), (1, unknown), (2, copy), (1, listing), (2, to_json), (1.5, class_topic),
    (0.7, class_sentiment), (2, notes), (1.2, story),
]  # fmt: skip


def _filler(d: Draw) -> list[Message]:
    s = d.pick(FILLERS)(d)
    return [*(m for m in s.messages if m["role"] != "system"), assistant(s.answer)]


def _chat(d: Draw, facts: int, characters: int, skill: str) -> Sample:
    """A chat of about ``characters`` characters (4.3 to a token) that ends with a recall."""
    kinds = d.sample(INTROS, min(facts, len(INTROS)))
    planted = [_intro(d, kind) for kind in kinds]
    blocks = [p[0] for p in planted]
    size = sum(len(m["content"]) + 20 for b in blocks for m in b)
    while size < characters:
        block = _filler(d)
        blocks.insert(d.randrange(len(blocks) + 1), block)
        size += sum(len(m["content"]) + 20 for m in block)
    if d.chance(0.35) and characters:  # the fact at the very start: the longest way back
        blocks.remove(planted[0][0])
        blocks.insert(0, planted[0][0])
    messages = [m for b in blocks for m in b]
    if d.chance(0.15):
        messages.insert(0, system(d.choice(["You are a helpful assistant.", "Be brief."])))
    r = d.random()
    if r < 0.1:
        kind = d.choice([k for k in INTROS if k not in kinds] or [None])
        if kind is None:
            return _chat(d, 2, characters, skill)
        ask = d.frame(kind[2])
        key = ask + messages[0]["content"]
        return Sample(skill, [*messages, user(ask)], FORGOTTEN, "The user did not say that.",
                      key=key)  # fmt: skip
    if r < 0.28 and characters > 300:  # an unrelated question at the end
        s = d.pick([(3, fact), (1, greet), (2, to_json), (2, copy), (1, class_topic)])(d)
        tail = [m for m in s.messages if m["role"] != "system"]
        return Sample(skill, [*messages, *tail], s.answer, s.think, key=s.key, check=s.check)
    _, ask, answer, text = planted[0] if d.chance(0.5) else d.choice(planted)
    return Sample(skill, [*messages, user(ask)], answer, f"The user said: {text}", key=text + ask,
                  weight=1.5, meta={"chars": size})  # fmt: skip


def recall(d: Draw) -> Sample:
    """One to three facts, hardly any talk between, then a question about one of them."""
    return _chat(d, d.randint(1, 3), d.choice([0, 0, 200, 400]), "recall")


def chat(d: Draw) -> Sample:
    """A chat of 100 to 450 tokens."""
    return _chat(d, d.randint(1, 4), d.randint(400, 1900), "chat")


def long_chat(d: Draw, low: int = 1500, high: int = 3300) -> Sample:
    """A chat of about 450 to 1,000 tokens."""
    return _chat(d, d.randint(2, 6), d.randint(low, high), "long_chat")


def longest(d: Draw) -> Sample:
    """A chat of about 1,000 to 2,000 tokens, or notes of that size."""
    if d.chance(0.3):
        s = notes(d, 60, 110)
        s.skill = "longest"
        return s
    s = long_chat(d, 3300, 6300)
    s.skill = "longest"
    return s
