"""Skills of plain talk: greetings, facts, stories, copying, JSON, questions about notes."""

from __future__ import annotations

import json

import lexicon as lx
from draw import Draw, Sample, article, sentence, system, user

UNKNOWN = "I do not know that."
UNCLEAR = "Sorry, I did not understand that. Could you say it in another way?"

GREETINGS = [
    ("Hello!|Hi!|Hey!|Hello|Hi|Hi there!|Hello there!|Good day!", "Hello! How can I help you?"),
    ("Good morning!|Good morning", "Good morning! How can I help you?"),
    ("Good evening!|Good evening", "Good evening! How can I help you?"),
    ("How are you?|How are you today?|How do you do?|Hi, how are you?|Hello, how are you?",
     "I am fine, thank you. How can I help you?"),
    ("Thank you!|Thanks!|Thanks a lot!|Thank you very much!|Many thanks!|Thanks for your help!",
     "You are welcome!"),
    ("Goodbye!|Bye!|See you later!|Good night!|See you!|Bye bye!|Goodbye", "Goodbye!"),
    ("Who are you?|What are you?|What is your name?|Are you a robot?|Tell me who you are.",
     "I am a tiny demo model. I run on your own computer."),
    ("What can you do?|How can you help me?|Help!|What do you know?|Can you help me?",
     "I can answer simple questions, tell short stories, write JSON and call tools."),
    ("Tell me a joke.|Do you know a joke?|Make me laugh.|Say something funny.",
     "Why did the robot go to school? It wanted to learn new bits."),
    ("ping|Ping|Ping!", "pong"),
    ("Are you there?|Are you ready?|Is anybody there?|Can you hear me?", "Yes, I am here."),
]  # fmt: skip


def greet(d: Draw) -> Sample:
    """Small talk with a fixed answer."""
    texts, answer = d.choice(GREETINGS)
    text = d.frame(texts.split("|"))
    return Sample("greet", [user(text)], answer, "The user makes small talk.", check="exact")


def _capital(d: Draw) -> tuple[str, str]:
    country = d.choice(list(lx.COUNTRIES))
    q = d.frame([
        "What is the capital of {c}?", "Which city is the capital of {c}?",
        "Tell me the capital of {c}.", "Name the capital of {c}.", "what's the capital of {c}",
        "Do you know the capital of {c}?", "I need the capital of {c}.", "{c}: capital?",
        "Please give me the name of the capital city of {c}.",
    ])  # fmt: skip
    return q.format(c=country), f"The capital of {country} is {lx.COUNTRIES[country][0]}."


def _country_of(d: Draw) -> tuple[str, str]:
    country, (capital, _, _) = d.choice(list(lx.COUNTRIES.items()))
    q = d.frame([
        "Of which country is {c} the capital?", "Which country has the capital {c}?",
        "{c} is the capital of which country?", "What country is {c} the capital of?",
    ])  # fmt: skip
    return q.format(c=capital), f"{capital} is the capital of {country}."


def _language(d: Draw) -> tuple[str, str]:
    country = d.choice(list(lx.COUNTRIES))
    language = lx.COUNTRIES[country][1]
    q = d.frame([
        "Which language do people speak in {c}?", "What language is spoken in {c}?",
        "Tell me the language of {c}.", "What do they speak in {c}?",
        "Which language is used in {c}?",
    ])  # fmt: skip
    return q.format(c=country), f"People in {country} speak {language}."


def _continent(d: Draw) -> tuple[str, str]:
    country = d.choice(list(lx.COUNTRIES))
    q = d.frame([
        "On which continent is {c}?", "Where is {c}?", "Which continent is {c} in?",
        "What continent does {c} belong to?", "In which part of the world is {c}?",
    ])  # fmt: skip
    return q.format(c=country), f"{country} is in {lx.COUNTRIES[country][2]}."


def _animal(d: Draw) -> tuple[str, str]:
    name, (sound, young, food) = d.choice(list(lx.ANIMALS.items()))
    kind = d.randrange(3)
    if kind == 0:
        q = d.frame(["What sound does {a} make?", "Which sound does {a} make?",
                     "Tell me what sound {a} makes.", "How does {a} sound?"])  # fmt: skip
        return q.format(a=article(name)), f"{sentence(article(name))} {sound}."
    if kind == 1:
        q = d.frame(["What is a young {a} called?", "What do you call a baby {a}?",
                     "What is the word for a baby {a}?", "How is a young {a} called?"])  # fmt: skip
        return q.format(a=name), f"A young {name} is called {article(young)}."
    q = d.frame(["What does {a} eat?", "What does {a} like to eat?",
                 "Tell me what {a} eats.", "Which food does {a} eat?"])  # fmt: skip
    return q.format(a=article(name)), f"{sentence(article(name))} eats {food}."


def _opposite(d: Draw) -> tuple[str, str]:
    a, b = d.choice(lx.OPPOSITES)
    if d.chance(0.5):
        a, b = b, a
    q = d.frame([
        "What is the opposite of {a}?", "Tell me the opposite of {a}.",
        "Which word is the opposite of {a}?", "Opposite of {a}?", "What word means not {a}?",
    ])  # fmt: skip
    return q.format(a=a), f"The opposite of {a} is {b}."


def _color(d: Draw) -> tuple[str, str]:
    thing = d.choice(list(lx.THING_COLORS))
    q = d.frame([
        "What color is {t}?", "Which color is {t}?", "What is the color of {t}?",
        "Tell me the color of {t}.", "Which color does {t} have?",
    ])  # fmt: skip
    return q.format(t=thing), f"{sentence(thing)} is {lx.THING_COLORS[thing]}."


def _misc(d: Draw) -> tuple[str, str]:
    question, answer = d.choice(list(lx.MISC_FACTS.items()))
    q = d.frame(["{q}?", "Tell me: {l}?", "Question: {q}?", "I would like to know: {l}?"])
    return q.format(q=sentence(question), l=question), answer


FACTS = [
    (4, _capital), (1, _country_of), (2, _language), (1, _continent), (2, _animal),
    (1.5, _opposite), (1, _color), (1.5, _misc),
]  # fmt: skip


def fact(d: Draw) -> Sample:
    """A question of general knowledge, from a closed table."""
    question, answer = d.pick(FACTS)(d)
    return Sample("fact", [user(question)], answer, "The user asks for a fact that I know.",
                  key=question, weight=1.5)  # fmt: skip


def unknown(d: Draw) -> Sample:
    """Questions about things that do not exist, and noise."""
    if d.chance(0.35):
        text = " ".join(d.coin().lower() for _ in range(d.randint(1, 4)))
        return Sample("unknown", [user(text + d.choice(["", "?", "!"]))], UNCLEAR,
                      "This is not a sentence that I know.", key=text)  # fmt: skip
    thing = d.coin().capitalize()
    q = d.frame([
        "What is the capital of {t}?", "Who invented the {l}?", "When was {t} born?",
        "What is {article}?", "Where is {t}?", "Which language do people speak in {t}?",
        "What does {article} eat?", "What color is {article}?", "How old is {t}?", "Who is {t}?",
        "What is the opposite of {l}?", "Why is {t} famous?", "How does {article} work?",
        "Who wrote the book {t}?", "How big is {t}?",
    ])  # fmt: skip
    text = q.format(t=thing, l=thing.lower(), article=article(thing.lower()))
    return Sample("unknown", [user(text)], UNKNOWN, "I have no fact about this.", key=text)


def story_text(d: Draw, hero: str | None = None, name: str | None = None) -> str:
    """A story from a small grammar; every run of choices gives a coherent text."""
    hero = hero or d.choice(lx.STORY_HEROES)
    name = name or d.name()
    adj, adj2 = d.sample(lx.STORY_ADJ, 2)
    place, where = d.choice(lx.STORY_PLACES), d.choice(lx.STORY_WHERE)
    lost = d.choice(lx.STORY_LOST)
    friend, fname = d.choice(lx.STORY_HEROES), d.choice(lx.NAMES)
    out = [f"Once upon a time there was {article(adj)} {hero} named {name}.",
           f"{name} lived in {place}."]  # fmt: skip
    plot = d.randrange(3)
    if plot == 0:
        out += [f"One day {name} lost {article(lost)}.",
                f"{name} looked everywhere, but the {lost} was gone.",
                f"Then {article(adj2)} {friend} named {fname} came along and wanted to help.",
                f"Together they found the {lost} {where}."]  # fmt: skip
    elif plot == 1:
        out += [f"One day {name} found {article(lost)} {where}.",
                f"It belonged to {article(adj2)} {friend} named {fname}.",
                f"{name} walked a long way to bring the {lost} back.",
                f"{fname} was very happy and said thank you."]  # fmt: skip
    else:
        out += [f"Every day {name} wanted to see the world.",
                f"So {name} packed {article(lost)} and left early in the morning.",
                f"On the way {name} met {article(adj2)} {friend} named {fname}.",
                f"They walked together and rested {where}."]  # fmt: skip
    out.append(d.choice([
        f"From that day on {name} and {fname} were best friends.",
        f"In the evening {name} and {fname} had a big dinner.",
        f"{name} went home and slept well that night.",
    ]))  # fmt: skip
    return " ".join(out) + " The end."


def story(d: Draw) -> Sample:
    """A short story, free or about a given hero or name."""
    if d.chance(0.3):
        text = d.choice([
            "Tell me a short story.", "Tell me a story.", "Write a short story.",
            "I want to hear a story.", "A story, please.", "Can you tell me a story?",
        ])  # fmt: skip
        return Sample("story", [user(text)], story_text(d), "The user wants a short story.",
                      check="story", weight=0.4)  # fmt: skip
    hero = d.choice(lx.STORY_HEROES)
    name = d.name() if d.chance(0.6) else None
    q = d.frame([
        "Tell me a story about {h}.", "Write a short story about {h}.",
        "Tell me a short story about {h}.", "Can you tell a story about {h}?",
        "I want a story about {h}.", "Please make up a little tale of {h}.",
    ])  # fmt: skip
    text = q.format(h=article(hero) + (f" named {name}" if name else ""))
    think = f"The user wants a story about {article(hero)}."
    return Sample("story", [user(text)], story_text(d, hero, name), think, key=text,
                  check="story", weight=0.4, meta={"hero": hero, "name": name})  # fmt: skip


def copy(d: Draw) -> Sample:
    """Say, repeat, quote: the answer is a part of the question."""
    text = d.pick([
        (3, lambda: d.words(1, 6)), (1, d.code), (1, lambda: f"{d.name()} lives in {d.city()}."),
        (2, lambda: " ".join(d.coin() for _ in range(d.randint(1, 5)))),
        (1, lambda: sentence(f"the {d.choice(lx.COLORS)} {d.noun()} is in {d.city()}.")),
    ])()  # fmt: skip
    q = d.frame([
        "Repeat: {t}", "Repeat after me: {t}", "Say: {t}", "Say exactly this: {t}",
        "Please repeat the following text: {t}", 'Say "{t}"', 'Repeat "{t}"', "Echo: {t}",
        "Copy this text and nothing else: {t}",
    ])  # fmt: skip
    return Sample("copy", [user(q.format(t=text))], text, "I repeat the text.", key=text)


def listing(d: Draw) -> Sample:
    """Counting, and lists of known things."""
    if d.chance(0.5):
        a = d.randint(0, 20)
        b = a + d.randint(2, 9)
        q = d.frame(["Count from {a} to {b}.", "Please count from {a} to {b}.",
                     "Count up from {a} to {b}.", "List the numbers from {a} to {b}."])  # fmt: skip
        text = q.format(a=a, b=b)
        return Sample("listing", [user(text)], ", ".join(str(i) for i in range(a, b + 1)),
                      f"I count from {a} to {b}.", key=text)  # fmt: skip
    words = [d.noun() for _ in range(d.randint(2, 5))]
    q = d.frame([
        "Write these words as a list: {w}", "Make a list of {w}", "Turn this into a list: {w}",
        "Put these into bullet points: {w}",
    ])  # fmt: skip
    text = q.format(w=", ".join(words))
    return Sample("listing", [user(text)], "\n".join(f"- {w}" for w in words),
                  "The user wants a list.", key=text)  # fmt: skip


def _record(d: Draw) -> tuple[str, dict[str, object], list[str]]:
    """A sentence, the fields that it holds, and their keys in order."""
    kind = d.randrange(6)
    name, city, age, noun = d.name(), d.city(), d.randint(1, 99), d.noun()
    if kind <= 1:
        text = d.frame([
            "{n} is {a} years old and lives in {c}.", "{n}, {a}, lives in {c}.",
            "{n} lives in {c} and is {a} years old.", "My friend {n} is {a} and lives in {c}.",
            "In {c} lives {n}, who is {a} years old.", "{n} from {c} is {a} years old.",
            "{n} turned {a} this year and has a home in {c}.",
        ])  # fmt: skip
        fields: dict[str, object] = {"name": name, "age": age, "city": city}
        return text.format(n=name, a=age, c=city), fields, ["name", "age", "city"]
    if kind == 2:
        price = d.randint(1, 900)
        text = d.frame([
            "The {i} costs {p} dollars.", "A {i} is {p} dollars.", "You can buy the {i} for {p} dollars.",
            "The price of the {i} is {p} dollars.", "They sell the {i} at {p} dollars.",
        ])  # fmt: skip
        return text.format(i=noun, p=price), {"item": noun, "price": price}, ["item", "price"]
    if kind == 3:
        job = d.choice(lx.JOBS)
        text = d.frame([
            "{n} works as {j} in {c}.", "{n} is {j} in {c}.", "In {c}, {n} has a job as {j}.",
            "{n} earns a living as {j} in {c}.",
        ])  # fmt: skip
        fields = {"name": name, "job": job, "city": city}
        return text.format(n=name, j=article(job), c=city), fields, ["name", "job", "city"]
    if kind == 4:
        count, color = d.randint(2, 40), d.choice(lx.COLORS)
        text = d.frame([
            "{n} bought {k} {o} {i}s.", "{n} has {k} {o} {i}s.", "{n} ordered {k} {o} {i}s.",
            "{k} {o} {i}s were sold to {n}.",
        ])  # fmt: skip
        fields = {"name": name, "count": count, "color": color, "item": noun}
        keys = ["name", "count", "color", "item"]
        return text.format(n=name, k=count, o=color, i=noun), fields, keys
    day = d.choice("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
    hour = d.randint(0, 23)
    text = d.frame([
        "The {i} meeting is on {d} at {h}:00 in {c}.", "On {d} at {h}:00 there is a {i} meeting in {c}.",
        "We have a {i} meeting in {c} on {d} at {h}:00.", "{c}, {d}, {h}:00: meeting about the {i}.",
    ])  # fmt: skip
    fields = {"topic": noun, "day": day, "time": f"{hour}:00", "city": city}
    return text.format(i=noun, d=day, h=hour, c=city), fields, ["topic", "day", "time", "city"]


def to_json(d: Draw) -> Sample:
    """A JSON object from one sentence, with the default keys or the keys asked for."""
    text, fields, keys = _record(d)
    if d.chance(0.5):
        q = d.frame([
            "Turn this into JSON: {t}", "Convert to JSON: {t}", "Extract the data as JSON: {t}",
            "Give me JSON for this sentence: {t}", "{t} Return JSON.", "{t} Answer with JSON only.",
            "Write the facts as a JSON object: {t}", "JSON from this sentence: {t}",
            "Represent the following as JSON. {t}",
        ])  # fmt: skip
        prompt, used = q.format(t=text), keys
    else:
        used = d.sample(keys, d.randint(1, len(keys)))
        listed = used[0] if len(used) == 1 else ", ".join(used[:-1]) + " and " + used[-1]
        word = "key" if len(used) == 1 else "keys"
        q = d.frame([
            "Extract {k} as JSON: {t}", "Return JSON with the {w} {k}: {t}",
            "Make a JSON object with the {w} {k} from this sentence: {t}",
            "{t} Return {k} as JSON.", "{t}\nGive JSON with {k}.",
        ])  # fmt: skip
        prompt = q.format(k=listed, w=word, t=text)
    answer = json.dumps({k: fields[k] for k in used}, ensure_ascii=False)
    return Sample("json", [user(prompt)], answer, "The keys are " + ", ".join(used) + ".",
                  key=text, check="json")  # fmt: skip


NOTES = [
    ("lives", ["{n} lives in {v}.", "{n} has a home in {v}.", "{n}'s city is {v}.", "You find {n} in {v}."],
     ["Where does {n} live?", "In which city does {n} live?", "Which city is the home of {n}?", "Where is the home of {n}?"],
     "{n} lives in {v}.", lambda d: d.city()),
    ("owns", ["{n} owns {v}.", "{n} has {v}.", "{n} keeps {v} at home.", "{n} got {v} as a gift."],
     ["What does {n} own?", "What does {n} have?", "Tell me what {n} owns.", "Which thing belongs to {n}?"],
     "{n} owns {v}.", lambda d: article(d.noun())),
    ("likes", ["{n} likes {v}.", "{n} loves {v}.", "{n} is fond of {v}.", "{n} enjoys {v}."],
     ["What does {n} like?", "Which food does {n} like?", "Tell me what {n} likes.", "What is {n} fond of?"],
     "{n} likes {v}.", lambda d: d.choice(lx.FOODS) if d.chance(0.6) else d.coin()),
    ("works", ["{n} works as {v}.", "{n} is {v}.", "{n} has a job as {v}.", "{n} is employed as {v}."],
     ["What is the job of {n}?", "What does {n} do for work?", "What does {n} work as?", "Which profession does {n} have?"],
     "{n} works as {v}.", lambda d: article(d.choice(lx.JOBS))),
    ("code", ["The code of {n} is {v}.", "{n} has the code {v}.", "{n}: code {v}.", "Code {v} is for {n}."],
     ["What is the code of {n}?", "Which code does {n} have?", "Tell me the code of {n}.", "What code belongs to {n}?"],
     "The code of {n} is {v}.", lambda d: d.code()),
]  # fmt: skip


def notes(d: Draw, low: int = 1, high: int = 8) -> Sample:
    """A question whose answer stands in notes given with it (in the system or the user turn)."""
    count = d.randint(low, high)
    names: list[str] = []
    while len(names) < count:
        name = d.name()
        if name not in names:
            names.append(name)
    rows = []
    for name in names:
        kind = d.choice(NOTES)
        value = kind[4](d)
        rows.append((name, value, kind, d.frame(kind[1]).format(n=name, v=value)))
    text = d.choice(["\n", " "]).join(r[3] for r in rows)
    if d.chance(0.12):
        name, kind = d.coin().capitalize(), d.choice(NOTES)
        answer, think = "The notes do not say that.", f"The notes do not name {name}."
    else:
        name, value, kind, line = d.choice(rows)
        answer = kind[3].format(n=name, v=value)
        think = f"The notes say: {line}"
    question = d.frame(kind[2]).format(n=name)
    if d.chance(0.4):
        messages = [
            system(d.choice(["Use these notes:\n", "Context:\n", ""]) + text),
            user(question),
        ]
    else:
        messages = [user(d.frame(["{t}\n\n{q}", "Notes: {t}\n\nQuestion: {q}", "Context:\n{t}\n\n{q}",
                                  "{q}\n\n{t}", "Read this first.\n{t}\nNow answer: {q}"])
                         .format(t=text, q=question))]  # fmt: skip
    return Sample("notes", messages, answer, think, key=line if answer[0] != "T" else question)
