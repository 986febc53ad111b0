"""Skills that judge: the engine's classify prompt and its rerank prompt."""

from __future__ import annotations

import lexicon as lx
from draw import Draw, Sample, article, sentence, system, user
from template import RERANK_INSTRUCTION, RERANK_SYSTEM, classify_prompt

TOPIC_FRAMES = [
    "The {a} and the {b} are new.", "We talked about the {a} all day.", "I need a new {a}.",
    "{v}.", "Yesterday {who} {v}.", "My {rel} likes the {a}.", "The {a} was better than the {b}.",
    "Everybody is talking about the {a}.", "{who} wants to see the {a}.", "The {a} {v}.",
    "Where can I find a good {a}?", "This is about the {a}.", "{who} wrote to me about the {a}.",
    "I read an article on {a} and {b}.", "Please tell me more about the {a}, {who} said.",
    "There was news on the {a} this morning.",
]  # fmt: skip
RELATIVES = "mother father sister brother uncle aunt friend neighbor boss".split()
SENT_FRAMES = [
    "The {t} was {w}.", "This is a {w} {t}.", "What a {w} {t}!", "I think the {t} is {w}.",
    "The {t} was {w}, {s}.", "{s}, the {t} was really {w}.", "{S}!", "Such a {w} {t}, {s}.",
    "My {rel} found the {t} {w}.", "Honestly, that {t} is {w}.", "{S}, it was {w}.",
    "We had a {w} time with the {t}.",
]  # fmt: skip
NEUTRAL_FRAMES = [
    "The {t} is on the table.", "The {t} opens at nine.", "There is a {t} in {c}.",
    "The {t} has two parts.", "I saw the {t} on Monday.", "{n} has the {t}.",
    "The {t} was made in {c}.",
]  # fmt: skip


def _topic_text(d: Draw, topic: str) -> str:
    nouns, phrases = lx.TOPICS[topic]
    a, b = d.sample(nouns.split(), 2)
    text = d.frame(TOPIC_FRAMES).format(
        a=a, b=b, v=d.choice(phrases.split("|")), who=d.name(), rel=d.choice(RELATIVES)
    )
    return sentence(text)


def class_topic(d: Draw) -> Sample:
    """Which topic, out of two to eight labels in any order."""
    labels = d.sample(list(lx.TOPICS), d.randint(2, 8))
    topic = d.choice(labels)
    text = _topic_text(d, topic)
    if d.chance(0.25):
        text += " " + _topic_text(d, topic)
    style = d.choice([str.lower, str.lower, str.capitalize, str.upper])
    return Sample("class_topic", [user(classify_prompt(text, [style(x) for x in labels]))],
                  style(topic), f"The text is about {topic}.", key=text, weight=2)  # fmt: skip


def class_sentiment(d: Draw) -> Sample:
    """Positive or negative (or neutral)."""
    labels = d.choice([["positive", "negative"], ["positive", "negative", "neutral"]])[:]
    d.shuffle(labels)
    label = d.choice(labels)
    if label == "neutral":
        text = d.frame(NEUTRAL_FRAMES).format(t=d.choice(lx.SENT_THINGS), c=d.city(), n=d.name())
    else:
        words, side = ((lx.POSITIVE, lx.SENT_POS), (lx.NEGATIVE, lx.SENT_NEG))[label == "negative"]
        side_text = d.choice(side.split("|"))
        text = d.frame(SENT_FRAMES).format(
            t=d.choice(lx.SENT_THINGS), w=d.choice(words), s=side_text, S=side_text,
            rel=d.choice(RELATIVES),
        )  # fmt: skip
    style = d.choice([str.lower, str.lower, str.capitalize])
    prompt = classify_prompt(sentence(text), [style(x) for x in labels])
    return Sample("class_sentiment", [user(prompt)], style(label), f"The tone is {label}.",
                  key=text, weight=2)  # fmt: skip


def class_word(d: Draw) -> Sample:
    """The label whose own word stands in the text; labels may be invented."""
    labels: list[str] = []
    while len(labels) < d.randint(2, 6):
        label = d.noun() if d.chance(0.7) else d.coin() + " " + d.noun()
        if all(label not in x and x not in label for x in labels):
            labels.append(label)
    label = d.choice(labels)
    text = d.frame([
        "I have a question about the {l}.", "{n} bought a {l} in {c}.", "The {l} does not work.",
        "Can you send the {l} to {c}?", "Is there any news on the {l}?", "The {l} is ready.",
        "My {l} arrived in {c} today.",
    ]).format(l=label, n=d.name(), c=d.city())  # fmt: skip
    return Sample("class_word", [user(classify_prompt(text, labels))], label,
                  f"The text names {label}.", key=text, weight=1.5)  # fmt: skip


QUERY_FRAMES = [
    "{x}", "about {x}", "what is {x}", "find {x}", "where to buy {x}", "how does {x} work",
    "tell me about {x}", "information on {x}", "{x} price", "is {x} good", "how to use {x}",
    "Where can I get {x}?", "What do you know about {x}?", "who sells {x}", "best {x}",
    "history of {x}", "any news regarding {x}?",
]  # fmt: skip
DOC_FRAMES = [
    "The {x} is made in {c}.", "{n} bought a {x} in {c}.", "This page is about {x}.",
    "You can get the {x} at the market.", "The {x} costs {k} dollars.", "A guide to {x} by {n}.",
    "Everything on {x}: prices, tips and history.", "The {x} was invented by {n}.",
    "In {c} the {x} is very popular.", "{n} explains how the {x} works.", "How to use {x}.",
    "The {x} in {c} opens at nine.", "A {x} has {k} parts.", "{X} is {adj} and {adj2}.",
    "The shop of {n} sells {x}.", "Many people in {c} like {x}.", "We tested the {x} for {k} days.",
    "Last year {n} made {k} of the {x} for a customer in {c}.",
]  # fmt: skip


def _thing(d: Draw) -> str:
    r = d.random()
    if r < 0.35:
        return d.noun()
    if r < 0.5:
        return d.choice(lx.COLORS + lx.STORY_ADJ) + " " + d.noun()
    if r < 0.7:
        return d.coin()
    return d.name() if r < 0.85 else d.city()


def _doc(d: Draw, thing: str) -> str:
    return d.frame(DOC_FRAMES).format(
        x=thing, X=sentence(thing), c=d.city(), n=d.name(), k=d.randint(2, 90),
        adj=d.choice(lx.STORY_ADJ), adj2=d.choice(lx.POSITIVE),
    )  # fmt: skip


def _relevant_pair(d: Draw, yes: bool) -> tuple[str, str]:
    """A query and a document that answers it, or one of the same kind that does not."""
    kind = d.random()
    if kind < 0.55:  # one thing, named in both
        thing, other = _thing(d), _thing(d)
        while other in thing or thing in other:
            other = _thing(d)
        target = thing if yes else other
        doc = _doc(d, target)
        if d.chance(0.35):
            doc += " " + _doc(d, target if d.chance(0.5) else _thing(d).replace(thing, other))
        if thing in doc and not yes:
            return _relevant_pair(d, yes)
        return d.frame(QUERY_FRAMES).format(x=thing), doc
    if kind < 0.72:  # capital and other relations of a place, invented ones too
        place, other = d.choice(list(lx.COUNTRIES)), d.choice(list(lx.COUNTRIES))
        if d.chance(0.5):
            place, other = d.coin().capitalize(), d.coin().capitalize()
        while other == place:
            other = d.choice(list(lx.COUNTRIES))
        rel = d.choice(["capital", "language", "population", "president", "flag", "king"])
        query = d.frame(["What is the {r} of {p}?", "{r} of {p}", "{p} {r}",
                         "which {r} does {p} have"]).format(r=rel, p=place)  # fmt: skip
        known = lx.COUNTRIES.get(place)
        value = known[0] if known and rel == "capital" else d.city()
        subject = place if yes else other
        doc = d.frame(["The {r} of {p} is {v}.", "{v} is the {r} of {p}.",
                       "{p} has a famous {r}: {v}.", "As its {r}, {p} has {v}."])  # fmt: skip
        return query, doc.format(r=rel, p=subject, v=value)
    if kind < 0.88:  # who does what: name in query and document
        name, other = d.name(), d.name()
        while other == name:
            other = d.name()
        verb, asks = d.choice([("lives in", "Where does {n} live?"), ("works in", "where does {n} work"),
                               ("was born in", "birthplace of {n}"), ("studies in", "school of {n}")])  # fmt: skip
        return asks.format(n=name), f"{name if yes else other} {verb} {d.city()}."
    topic, other = d.sample(list(lx.TOPICS), 2)
    query = d.frame(["{t}", "news about {t}", "texts on {t}", "something about {t}"])
    return query.format(t=topic), _topic_text(d, topic if yes else other)


def relevance(d: Draw) -> Sample:
    """Yes or no in the engine's rerank prompt; the engine always asks with thinking off."""
    yes = d.chance(0.5)
    query, doc = _relevant_pair(d, yes)
    instruct = RERANK_INSTRUCTION if d.chance(0.8) else d.choice([
        "Retrieve relevant memory facts", "Find documents that match the query",
        f"Find texts about {article(d.noun())} for {d.name()}",
    ])  # fmt: skip
    text = f"<Instruct>: {instruct}\n<Query>: {query}\n<Document>: {doc}"
    return Sample("relevance", [system(RERANK_SYSTEM), user(text)], "yes" if yes else "no", "",
                  key=query + doc, weight=4)  # fmt: skip


def relevance_easy(d: Draw) -> Sample:
    """The shortest form of relevance: one word, one short sentence. The rest grows from it."""
    s = relevance(d)
    thing, other = d.noun(), d.noun()
    while other in thing or thing in other:
        other = d.noun()
    yes = s.answer == "yes"
    doc = d.frame(["The {x} is ready.", "This is a {x}.", "{x}", "Here is the {x}.", "My {x}."])
    doc = doc.format(x=thing if yes else other)
    s.messages[-1] = user(f"<Instruct>: {RERANK_INSTRUCTION}\n<Query>: {thing}\n<Document>: {doc}")
    s.key = thing + doc
    return s
