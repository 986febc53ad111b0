"""Skills with tools: call, read the result, know that none fits, sum up in ``done``."""

from __future__ import annotations

import json
from typing import Any

import lexicon as lx
from draw import Draw, Message, Sample, sentence, system, user
from skills_talk import fact, greet
from template import DONE_NOTE

NO_TOOL = "I have no tool for that."
Json = dict[str, Any]


def function(name: str, description: str, params: dict[str, str], d: Draw) -> Json:
    """An OpenAI tool definition; ``params`` maps a name to a JSON type."""
    properties: Json = {}
    for key, kind in params.items():
        properties[key] = {"type": kind}
        if d.chance(0.3):
            properties[key]["description"] = f"The {key.replace('_', ' ')}"
    schema: Json = {"type": "object", "properties": properties}
    if params and d.chance(0.8):
        schema["required"] = list(params)
    inner: Json = {"name": name}
    if d.chance(0.85):
        inner["description"] = description
    inner["parameters"] = schema
    tool = {"type": "function", "function": inner}
    # Some clients and template engines sort the keys.
    return json.loads(json.dumps(tool, sort_keys=True)) if d.chance(0.3) else tool


def _value(d: Draw, subject: str) -> str:
    if subject == "city":
        return d.city()
    if subject == "country":
        return d.choice(list(lx.COUNTRIES)) if d.chance(0.6) else d.coin().capitalize()
    if subject in ("person", "user"):
        return d.name()
    if subject == "product":
        return d.noun()
    return d.coin().capitalize() if d.chance(0.7) else d.name()


def _weather(d: Draw) -> tuple[str, str, dict[str, str], str, Json]:
    city = d.city()
    asked = d.frame([
        "What is the weather in {v}?", "How is the weather in {v}?", "Tell me the weather in {v}.",
        "weather in {v}", "What's the weather like in {v}?", "I need the weather for {v}.",
        "Is it nice weather in {v} today?",
    ])  # fmt: skip
    name = d.choice(["get_weather", "get_weather", "weather", "get_current_weather"])
    text = d.choice(["Get the weather in a city", "Current weather of a city", "Get the weather."])
    param = d.choice(["city", "city", "city", "location"])
    return name, text, {param: "string"}, asked.format(v=city), {param: city}


def _attribute(d: Draw) -> tuple[str, str, dict[str, str], str, Json]:
    attr = d.choice(lx.ATTRIBUTES) if d.chance(0.6) else d.coin()
    subject = d.choice(lx.SUBJECTS)
    words, value = attr.replace("_", " "), _value(d, subject)
    asked = d.frame([
        "What is the {a} of {v}?", "Tell me the {a} of {v}.", "I need the {a} of {v}.",
        "Get the {a} of {v}.", "Please look up the {a} of {v}.", "Which {a} does {v} have?",
        "Find the {a} for {v}.", "Could you check the {a} of {v} for me?",
    ])  # fmt: skip
    param = d.choice([subject, subject, "name", d.coin()])
    name = d.choice(["get_{a}", "get_{a}", "find_{a}", "{s}_{a}", "lookup_{a}"])
    text = d.choice([f"Get the {words} of a {subject}", f"Returns the {words} of a {subject}",
                     f"Look up the {words} of a given {subject}."])  # fmt: skip
    return (name.format(a=attr, s=subject), text, {param: "string"},
            asked.format(a=words, v=value), {param: value})  # fmt: skip


#: name, description, parameters with types, phrasings; {braces} hold drawn values
ACTIONS: list[tuple[str, str, dict[str, str], list[str]]] = [
    ("send_message", "Send a message to a person", {"to": "string", "text": "string"},
     ["Send a message to {to}: {text}", "Tell {to} this: {text}", "Message {to}: {text}", "Write to {to}: {text}"]),
    ("set_timer", "Set a timer", {"minutes": "integer"},
     ["Set a timer for {minutes} minutes.", "Start a timer of {minutes} minutes.", "Timer: {minutes} minutes", "Wake me in {minutes} minutes."]),
    ("turn_on", "Turn on a device", {"device": "string"},
     ["Turn on the {device}.", "Switch on the {device}.", "Please turn the {device} on.", "Could you start the {device}?"]),
    ("turn_off", "Turn off a device", {"device": "string"},
     ["Turn off the {device}.", "Switch off the {device}.", "Please turn the {device} off.", "Could you stop the {device}?"]),
    ("search", "Search for a text", {"query": "string"},
     ["Search for {query}.", "Look for {query}.", "Find pages about {query}.", "Do a search on {query}."]),
    ("create_note", "Create a note", {"text": "string"},
     ["Make a note: {text}", "Note this down: {text}", "Create a note with this text: {text}", "Remember this: {text}"]),
    ("book_table", "Book a table in a restaurant", {"restaurant": "string", "people": "integer"},
     ["Book a table for {people} at {restaurant}.", "Reserve a table at {restaurant} for {people} people.",
      "I want a table for {people} at {restaurant}.", "We are {people} and want to eat at {restaurant}."]),
    ("order_item", "Order an item", {"item": "string", "count": "integer"},
     ["Order {count} of {item}.", "Buy {count} times {item}.", "Please order {item}, {count} pieces.", "I want {count} of {item}."]),
    ("get_time", "Get the time in a city", {"city": "string"},
     ["What time is it in {city}?", "Tell me the time in {city}.", "Current time in {city}?", "How late is it in {city}?"]),
    ("read_file", "Read a file", {"path": "string"},
     ["Read the file {path}.", "Open {path}.", "Show me the file {path}.", "What is in {path}?"]),
    ("play_song", "Play a song", {"title": "string"},
     ["Play {title}.", "Play the song {title}.", "I want to hear {title}.", "Put on the song {title}."]),
    ("translate", "Translate a text", {"text": "string", "language": "string"},
     ["Translate {text} into {language}.", "Translate to {language}: {text}", "How do you say {text} in {language}?", "Put {text} into {language}."]),
    ("add_event", "Add an event to the calendar", {"title": "string", "day": "string"},
     ["Add {title} to my calendar on {day}.", "Put {title} in the calendar for {day}.", "New event on {day}: {title}", "Plan {title} for {day}."]),
]  # fmt: skip


def _argument(d: Draw, name: str, kind: str) -> Any:
    if kind == "integer":
        return d.randint(1, 90)
    if name == "to":
        return d.name()
    if name == "city":
        return d.city()
    if name == "language":
        return d.choice(["French", "German", "Spanish", "Italian", "Polish", "Greek"])
    if name == "day":
        return d.choice("Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split())
    if name == "path":
        return f"{d.coin()}{d.choice(['.txt', '.md', '.json', '.py'])}"
    if name == "restaurant":
        return d.coin().capitalize()
    if name == "text":
        return d.choice([d.words(1, 4), f"the {d.noun()} is {d.choice(lx.POSITIVE)}"])
    return d.words(1, 2)


def _action(d: Draw) -> tuple[str, str, dict[str, str], str, Json]:
    name, text, params, frames = d.choice(ACTIONS)
    args = {key: _argument(d, key, kind) for key, kind in params.items()}
    return name, text, params, d.frame(frames).format(**args), args


def _coined(d: Draw) -> tuple[str, str, dict[str, str], str, Json]:
    """A tool of an invented verb and noun: only its name links request and tool."""
    verb, noun = d.coin(), d.noun()
    key = d.choice(["name", "value", "target", d.coin()])
    integer = d.chance(0.3)
    value: Any = d.randint(1, 999) if integer else d.coin()
    asked = d.frame(["{V} the {n} {x}.", "Please {v} the {n} {x}.", "{V} {n} {x}", "I want to {v} the {n} {x}.",
                     "Could you {v} the {n} {x}?"])  # fmt: skip
    return (f"{verb}_{noun}", f"{sentence(verb)} a {noun}", {key: "integer" if integer else "string"},
            asked.format(v=verb, V=sentence(verb), n=noun, x=value), {key: value})  # fmt: skip


KINDS = [(2.5, _weather), (4, _attribute), (4, _action), (1.5, _coined)]


def _call(name: str, args: Json) -> Json:
    return {"type": "function", "function": {"name": name, "arguments": args}}


def call_text(name: str, args: Json) -> str:
    """A tool call as the model writes it."""
    body = json.dumps(args, ensure_ascii=False)
    return f'<tool_call>\n{{"name": "{name}", "arguments": {body}}}\n</tool_call>'


def _distractors(d: Draw, taken: str, low: int, high: int) -> list[Json]:
    out: list[Json] = []
    seen = {taken}
    while len(out) < d.randint(low, high):
        name, text, params, _, _ = d.pick(KINDS)(d)
        # "weather" tools under two names would be two right answers.
        clash = name in seen or any(
            len(w) > 2 and w in s for w in name.split("_") if w != "get" for s in seen
        )
        if not clash:
            seen.add(name)
            out.append(function(name, text, params, d))
    return out


def _maybe_system(d: Draw) -> list[Message]:
    if d.chance(0.75):
        return []
    return [system(d.choice(["You are a helpful assistant.", "Be brief.", "You may use tools.",
                             f"You work for {d.name()}.", "Answer in English."]))]  # fmt: skip


def tool_call(d: Draw) -> Sample:
    """One request, one tool of the list that fits (now and then two calls)."""
    kind = d.pick(KINDS)
    name, text, params, asked, args = kind(d)
    tools = [function(name, text, params, d), *_distractors(d, name, 0, 4)]
    answer = call_text(name, args)
    if d.chance(0.07) and kind is _weather and d.split != "phrasing":
        city = d.city()
        asked = f"What is the weather in {next(iter(args.values()))} and in {city}?"
        answer += "\n" + call_text(name, dict.fromkeys(args, city))
    d.shuffle(tools)
    return Sample("tool_call", [*_maybe_system(d), user(asked)], answer,
                  f"The tool {name} fits.", tools, asked, "tool", weight=1.5)  # fmt: skip


def tool_missing(d: Draw) -> Sample:
    """A request that none of the tools can serve."""
    name, _, _, asked, _ = d.pick(KINDS)(d)
    if d.chance(0.15):
        return Sample("tool_missing", [*_maybe_system(d), user(asked)], NO_TOOL, "No tool fits.",
                      key=asked, weight=2)  # fmt: skip
    tools = _distractors(d, name, 1, 4)
    if d.chance(0.5):  # a near miss: same kind of tool, other attribute
        other = _attribute(d)
        if other[0].split("_")[-1] not in name:
            tools[0] = function(other[0], other[1], other[2], d)
    return Sample("tool_missing", [*_maybe_system(d), user(asked)], NO_TOOL,
                  "No tool fits.", tools, asked, weight=2)  # fmt: skip


def tools_unused(d: Draw) -> Sample:
    """Tools are there, but the question needs none."""
    base = (greet if d.chance(0.4) else fact)(d)
    base.skill, base.tools = "tools_unused", _distractors(d, "", 1, 3)
    base.messages = [*_maybe_system(d), *base.messages]
    base.think = base.think.rstrip(".") + " without a tool."
    return base


SKIES = "sunny cloudy rainy windy foggy snowy clear".split()


def _result(d: Draw, name: str, asked: str, args: Json) -> tuple[str, str]:
    """What the tool returns, and the sentence that the model makes of it."""
    subject = str(next(iter(args.values())))
    if d.chance(0.08):
        reason = d.choice(["not found", "timeout", "access denied", f"unknown {d.coin()}"])
        text = d.choice([json.dumps({"error": reason}), f"error: {reason}"])
        return text, f"The tool failed: {reason}."
    if "weather" in name:
        degrees, sky = d.randint(-15, 40), d.choice(SKIES)
        text = d.choice([
            json.dumps({"temperature": degrees, "sky": sky}),
            json.dumps({"city": subject, "temperature": degrees, "condition": sky}),
            f"{degrees} degrees and {sky}", f"{degrees} degrees, {sky}", f"{sky}, {degrees} C",
        ])  # fmt: skip
        return text, f"In {subject} it is {degrees} degrees and {sky}."
    action = next((a for a in ACTIONS if a[0] == name), None)
    if action and name not in ("get_time", "read_file", "search", "translate"):
        return d.choice(["ok", "done", '{"status": "ok"}', "success"]), "Done."
    value = d.pick([
        (2, lambda: str(d.randint(1, 99999))), (2, d.coin), (1, d.name),
        (1, lambda: f"{d.randint(0, 23)}:{d.randint(10, 59)}"), (2, lambda: d.words(2, 4)),
        (1, d.code), (1, d.city),
    ])()  # fmt: skip
    key = d.choice(["result", "value", name.rsplit("_", maxsplit=1)[-1], d.coin()])
    text = d.choice([value, value, json.dumps({key: value})])
    return text, f"The result is {value}."


def _exchange(d: Draw) -> tuple[Json, str, list[Message], str, str]:
    """tool, request, the call with its result as messages, the answer, the tool's name."""
    name, text, params, asked, args = d.pick(KINDS)(d)
    result, answer = _result(d, name, asked, args)
    call = _call(name, args)
    if d.chance(0.3):
        call["function"]["arguments"] = json.dumps(args)
    turn: Message = {"role": "assistant", "content": "", "tool_calls": [call]}
    if d.chance(0.4):
        turn["reasoning_content"] = f"The tool {name} fits."
    return (function(name, text, params, d), asked, [turn, {"role": "tool", "content": result}],
            answer, name)  # fmt: skip


def tool_result(d: Draw) -> Sample:
    """The answer after the tool has returned."""
    tool, asked, turns, answer, name = _exchange(d)
    tools = [tool, *_distractors(d, name, 0, 2)]
    d.shuffle(tools)
    think = f"The tool returned {turns[1]['content']}."
    return Sample("tool_result", [*_maybe_system(d), user(asked), *turns], answer, think, tools,
                  asked + turns[1]["content"])  # fmt: skip


def done(d: Draw) -> Sample:
    """With a ``done`` tool: work first, then ``done`` with a detailed result."""
    exchanges = [_exchange(d) for _ in range(d.pick([(5, 1), (3, 2), (1, 3)]))]
    names = {e[4] for e in exchanges}
    if len(names) < len(exchanges):
        return done(d)
    tools = [e[0] for e in exchanges]
    description = d.choice(["Finish the task", "Call this when the task is finished",
                            "Report the final result", "Finish and report."])  # fmt: skip
    tools.append(function("done", description, {"result": "string"}, d))
    d.shuffle(tools)
    context = d.choice(["", "You are a helpful assistant.", f"You are an agent of {d.name()}.",
                        "Finish the task, then call done."])  # fmt: skip
    head = [system(DONE_NOTE.format(context=context))]
    request = exchanges[0][1]
    for e in exchanges[1:]:
        request = request.rstrip(".?!") + ". " + d.choice(["Then: ", "Also: ", ""]) + e[1]
    request += d.choice(["", "", " Then finish.", " Call done at the end."])
    messages: list[Message] = [*head, user(request)]
    finished = len(exchanges) if d.chance(0.7) else d.randrange(len(exchanges))
    for e in exchanges[:finished]:
        messages += e[2]
    key = request + str(messages[-1].get("content"))
    if finished < len(exchanges):
        turn = exchanges[finished][2][0]["tool_calls"][0]["function"]
        args = turn["arguments"]
        args = json.loads(args) if isinstance(args, str) else args
        return Sample("done", messages, call_text(turn["name"], args),
                      f"The tool {turn['name']} is next.", tools, key, "tool")  # fmt: skip
    parts = []
    for e in exchanges:
        turn = e[2][0]["tool_calls"][0]["function"]
        args = turn["arguments"]
        args = json.loads(args) if isinstance(args, str) else args
        given = ", ".join(f"{k} {v}" for k, v in args.items())
        parts.append(f"I called {turn['name']} with {given}. {e[3]}")
    return Sample("done", messages, call_text("done", {"result": " ".join(parts)}),
                  "All is done. I report what I found.", tools, key, "tool")  # fmt: skip
