"""Calls that a grammar enforces: what a family's reader reads, and what its templates write."""

import functools
import json
import random
from collections.abc import Sequence
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from car_rpc.errors import CarError
from car_rpc.wire.events import ReasoningDelta, ToolParseError
from car_rpc.wire.inference import JsonSchemaFormat
from car_rpc.wire.worker import Generate, SamplingParams
from car_rpc.workers.chat.prompter import Prompt
from car_rpc.workers.constraint.spellings import Spellings
from car_rpc.workers.generation import Generation
from car_rpc.workers.job import Job
from car_rpc.workers.text.answer import Answer
from car_rpc.workers.text.calls.families import Family
from tests.workers.test_calls import BY_NAME, calls_of, gemma_value, read, text_of
from tests.workers.test_text import merged

pytest.importorskip("llguidance")

END = 256

#: Families whose arguments are not JSON, and one whose are.
NAMES = ["qwen_coder", "glm", "gemma4", "function_gemma", "lfm2", "llama4", "harmony", "hermes"]

#: What ends a text, which random bytes seldom do.
ENDS = [
    "\n</parameter>\n", "</arg_value>", "</arg_value>\n", "</function>\n</tool_call>",
    "</tool_call>", '", ', "', ", '"}', '"]', '")', "')", ")]", "}}", "]]", '<|"|>', "<escape>",
]  # fmt: skip


class Bytes:
    """A vocabulary of bytes, of the ends of texts, and of the markers that are tokens."""

    def __init__(self, markers: Sequence[str] = ()) -> None:
        from car_rpc.workers.constraint.vocabulary import GuideVocabulary

        tokens = [bytes([byte]) for byte in range(256)]
        tokens += [text.encode() for text in ("<end>", *markers, *ENDS)]
        special = {*range(END, END + 1 + len(markers))}
        self.tokens = tokens
        self.vocabulary: Any = GuideVocabulary(
            Spellings(tokens, special, [END]), lambda text: list(text.encode())
        )
        self._markers = {marker: END + 1 + index for index, marker in enumerate(markers)}

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, in which the spelling of a marker is that."""
        for marker, token in self._markers.items():
            if marker and marker in text:
                before, _, after = text.partition(marker)
                return [*self.tokenize(before), token, *self.tokenize(after)]
        return list(text.encode())

    def accepts(self, grammar: str, text: str) -> bool:
        guide = self.vocabulary.guide(grammar)
        guide.accept(*self.tokenize(text))
        return not guide.lost and bool(guide.complete or guide.allowed()[END])


def markers_of(family: Family) -> list[str]:
    """Its markers, the longest first."""
    return sorted({*family.markers} - {""}, key=len, reverse=True)


PLAIN = Bytes()
MARKED = {name: Bytes(markers_of(BY_NAME[name])) for name in NAMES}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


def offered(name: str, *tools: dict[str, Any], must_call: Sequence[str] = ()) -> None:
    """Look at tools that a model may call."""
    from car_rpc.workers.constraint.tools import check_tools

    request = Generate(id=1, messages=[], tools=list(tools), must_call=list(must_call))
    check_tools(request, BY_NAME[name], "test")


def demanded(name: str, words: Bytes, parameters: Any, called: str = "f") -> str:
    from car_rpc.workers.constraint.calls import demanded_calls
    from car_rpc.workers.constraint.tools import check_tools

    request = Generate(
        id=1,
        messages=[],
        params=SamplingParams(thinking="off"),
        tools=[tool(called, parameters)],
        must_call=[called],
    )
    check_tools(request, BY_NAME[name], "test")
    return demanded_calls(request, BY_NAME[name], words.vocabulary)


def walk(words: Bytes, grammar: str, seed: int) -> str | None:
    """What a model says of which nothing is known; ``None`` where it finds no end."""
    luck = random.Random(seed)
    guide = words.vocabulary.guide(grammar)
    said: list[int] = []
    for step in range(600):
        if guide.complete:
            break
        allowed = np.flatnonzero(guide.allowed()).tolist()
        assert allowed, b"".join(words.tokens[token] for token in said)
        if END in allowed and luck.random() < 0.7:
            break
        allowed = [token for token in allowed if token != END]
        ends = [token for token in allowed if token > END or chr(token) in "\"')]},<"]
        token = luck.choice(ends if ends and luck.random() < 0.2 + step / 300 else allowed)
        guide.accept(token)
        assert not guide.lost
        said.append(token)
    else:
        return None
    return b"".join(words.tokens[token] for token in said).decode()


# --------------------------------------------------------------------------------- any schema
TEXTS = st.sampled_from(
    [
        {"type": "string"},
        {"type": "string", "maxLength": 3},
        {"type": "string", "minLength": 2, "maxLength": 4},
        {"type": "string", "pattern": "^[a-z]{2}$"},
        {"type": "string", "pattern": "[0-9]x", "maxLength": 6},
        {"type": "string", "format": "date"},
        {"type": "string", "format": "uuid"},
        {"enum": ["metric", "imperial", "1", "it's"]},
        {"const": 'a "b"'},
    ]
)
SCALARS = st.sampled_from(
    [
        {"type": "integer"},
        {"type": "integer", "minimum": 3, "maximum": 40},
        {"type": "number"},
        {"type": "number", "minimum": 0},
        {"type": "boolean"},
        {"type": "null"},
        {"const": 3},
        {"enum": [True, None, 7, "x"]},
        {"enum": [[1, "a"], {"k": None}]},
    ]
)
EITHER = st.sampled_from(
    [
        {"type": ["string", "null"]},
        {"anyOf": [{"type": "string", "maxLength": 4}, {"type": "null"}]},
        {"anyOf": [{"type": "string", "pattern": "^a"}, {"type": "integer"}]},
        {"anyOf": [{"type": "string"}, {"enum": [1, 2]}]},
        {"oneOf": [{"type": "string"}, {"type": "array", "items": {"type": "integer"}}]},
        {"anyOf": [{"$ref": "#/$defs/pair"}, {"type": "null"}]},
        {"anyOf": [{"$ref": "#/$defs/pair"}, {"enum": ["none"]}]},
        {"allOf": [{"$ref": "#/$defs/unit"}]},
        {},
        True,
    ]
)
PAIR = {
    "type": "object",
    "properties": {"a": {"type": "integer"}, "b": {"$ref": "#/$defs/unit"}},
    "required": ["b"],
    "additionalProperties": False,
}
DEFINITIONS = {"unit": {"enum": ["C", "F"]}, "pair": PAIR}


def nested(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def array(items: Any, least: int, more: int) -> dict[str, Any]:
        return {"type": "array", "items": items, "minItems": least, "maxItems": least + more}

    return st.builds(array, inner, st.integers(0, 2), st.integers(0, 2)) | objects(inner)


@st.composite
def objects(draw: Any, inner: st.SearchStrategy[Any]) -> dict[str, Any]:
    names = draw(st.permutations(["b", "a", "Cc", "d_1"]))[: draw(st.integers(0, 4))]
    schema = {"type": "object", "properties": {name: draw(inner) for name in names}}
    schema["required"] = [name for name in names if draw(st.booleans())]
    others = draw(st.sampled_from([None, False, {"type": "integer"}]))
    return schema if others is None else {**schema, "additionalProperties": others}


SCHEMAS = st.recursive(TEXTS | SCALARS | EITHER, nested, max_leaves=3)
PARAMETERS = objects(SCHEMAS).map(lambda schema: {**schema, "$defs": DEFINITIONS})


def validate(arguments: Any, schema: Any) -> None:
    checker = jsonschema.Draft202012Validator.FORMAT_CHECKER
    jsonschema.Draft202012Validator(schema, format_checker=checker).validate(arguments)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("marked", [False, True])
@pytest.mark.timeout(600)  # a soak of it takes minutes
@settings(max_examples=settings.default.max_examples // 10)
@given(parameters=PARAMETERS, seed=st.integers(0, 2**32))
def test_whatever_a_model_says_within_the_grammar_is_a_right_call(
    name: str, marked: bool, parameters: Any, seed: int
) -> None:
    words = MARKED[name] if marked else PLAIN
    said = walk(words, demanded(name, words, parameters), seed)
    if said is None:
        return
    events = read(BY_NAME[name], said, tools=[tool("f", parameters)])
    assert not any(isinstance(event, ToolParseError) for event in events), said
    assert text_of(events) == ""
    calls = calls_of(events)
    assert calls
    for called, arguments in calls:
        assert called == "f"
        validate(arguments, parameters)


@pytest.mark.parametrize("name", NAMES)
def test_a_token_is_allowed_where_the_mask_has_it(name: str) -> None:
    words = MARKED[name]
    guide = words.vocabulary.guide(demanded(name, words, ARGUMENTS))
    luck = random.Random(1)
    for _ in range(40):
        mask = guide.allowed()
        allows = [guide.allows(token) for token in range(len(words.tokens))]
        if guide.forced():  # of which the mask has but the first
            assert [token for token in np.flatnonzero(mask) if not allows[token]] == []
        else:
            assert allows == mask.tolist()
        if guide.complete:
            break
        guide.accept(luck.choice(np.flatnonzero(mask).tolist()))


# ------------------------------------------------------------------------------- as an answer goes


TRIP = {
    "type": "object",
    "properties": {
        "days": {"type": "integer", "minimum": 1, "maximum": 9},
        "to": {"enum": ["Paris", "Rome"]},
    },
    "required": ["days", "to"],
    "additionalProperties": False,
}
TOOLS = [tool("trip", TRIP), tool("trips", {**TRIP, "required": []})]
YES = JsonSchemaFormat(schema={"const": "yes"})


class Said:
    """An answer of which a part is given, and the rest is what the constraint allows."""

    def __init__(self, name: str, words: Bytes = PLAIN, **fields: Any) -> None:
        from car_rpc.workers.constraint.plan import make_plan

        tools = fields.pop("tools", TOOLS)
        request = Generate(id=1, messages=[], tools=tools, **fields)
        family = BY_NAME[name]
        plan = make_plan(request, family, words.vocabulary, "test")
        self.constraint = plan.constraint(in_reasoning=family.channels, so_far=None)
        self._words = words
        self._segments = Answer(family=family, tools=tools).segments
        self._events: list[Any] = []
        self.said = ""

    def say(self, text: str) -> "Said":
        for token in self._words.tokenize(text):
            self._take(token)
        return self

    def go_on(self, seed: int = 0, steps: int = 300) -> "Said":
        """Until the constraint ends it, or nothing is bound any more."""
        luck = random.Random(seed)
        for _ in range(steps):
            mask = self.constraint.allowed()
            if self.constraint.complete or mask is None:
                return self
            allowed = [token for token in np.flatnonzero(mask).tolist() if token != END]
            if not allowed or (mask[END] and luck.random() < 0.5):
                return self
            self._take(luck.choice(allowed))
        raise AssertionError(self.said)

    @property
    def calls(self) -> list[tuple[str, Any]]:
        events = merged([*self._events, *self._segments.finish()])
        return calls_of([event for event in events if not isinstance(event, ReasoningDelta)])

    def _take(self, token: int) -> None:
        piece = self._words.tokens[token].decode("latin-1")
        self.said += piece
        self._events += self._segments.feed(piece)
        self.constraint.accept(token, self._segments)
        assert not self.constraint.lost, self.said


BEGUN = {
    "hermes": "<tool_call>",
    "qwen_coder": "<tool_call>",
    "glm": "<tool_call>",
    "gemma4": "<|tool_call>",
    "function_gemma": "<start_function_call>",
    "lfm2": "<|tool_call_start|>",
    "llama": '{"name": "trip", "parameters": ',
    "llama4": "[trip(",
    "harmony": "<|channel|>commentary to=functions.trip <|constrain|>json<|message|>",
}


@pytest.mark.parametrize("name", BEGUN)
def test_a_call_that_the_model_begins_is_bound_to_its_end(name: str) -> None:
    for seed in range(5):
        answer = Said(name, parallel_tool_calls=False).say(BEGUN[name])
        assert answer.constraint.allowed() is not None
        calls = answer.go_on(seed).calls
        assert [called for called, _ in calls] in (["trip"], ["trips"])
        for called, arguments in calls:
            validate(arguments, TRIP if called == "trip" else {**TRIP, "required": []})


class Letters:
    """The vocabulary of bytes, as an answer in the making needs it."""

    def ends(self, token: int) -> bool:
        return token == END

    def piece(self, token: int) -> bytes:
        return PLAIN.tokens[token]

    spelling = piece


def allowed(generation: Generation) -> list[int] | None:
    assert generation.constraint is not None
    mask = generation.constraint.allowed()
    return None if mask is None else np.flatnonzero(mask).tolist()


@pytest.mark.parametrize("name", BEGUN)
def test_a_call_that_began_before_it_could_be_bound_is_bound_like_any_other(name: str) -> None:
    from car_rpc.workers.constraint.plan import make_plan

    request = Generate(id=1, messages=[], tools=TOOLS)
    plan = make_plan(request, BY_NAME[name], PLAIN.vocabulary, "test")
    prompt = Prompt([0], in_reasoning=False, family=BY_NAME[name])
    job = Job(request, lambda _: None, lambda _: None)
    early, late = (Generation(job, request, prompt, Letters(), 1000) for _ in range(2))
    early.constrain(plan)
    bound = False
    for token in PLAIN.tokenize(BEGUN[name]):
        assert late.advances
        early.accept(token)
        late.accept(token)
        if not bound and late.answer.segments.in_call:
            assert not late.advances
            late.constrain(plan)
            bound = True
        assert late.pending == early.pending
        assert not bound or allowed(late) == allowed(early)
    assert bound
    assert allowed(late) is not None


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("llama", '{"name": "trip to'),
        ("llama", '{"answer": '),
        ("llama4", "[1, "),
        ("llama4", "[trip "),
        ("qwen_coder", "Use <tool_ca"),
        ("harmony", "<|channel|>commentary to=functions.other <|constrain|>json<|message|>{"),
        ("harmony", "<|channel|>final<|message|>"),
    ],
)
def test_what_is_no_call_of_a_tool_stays_free(name: str, text: str) -> None:
    assert Said(name).say(text).constraint.allowed() is None


@pytest.mark.parametrize("marked", [False, True])
def test_in_channels_a_call_is_demanded_behind_any_reasoning(marked: bool) -> None:
    words = MARKED["harmony"] if marked else PLAIN
    answer = Said("harmony", words, must_call=["trip"])
    answer.say("<|channel|>analysis<|message|>Hm, <b>where</b>?")
    mask = answer.constraint.allowed()
    assert mask is not None
    assert mask.sum() == len(words.tokens) - 1  # all but the end
    answer.say("<|end|><|start|>assistant<|channel|>analysis<|message|>Rome!<|end|>")
    answer.say("<|start|>assistant<|channel|>c").go_on()
    ((called, arguments),) = answer.calls
    assert called == "trip"
    validate(arguments, TRIP)
    assert answer.constraint.complete


def test_in_channels_nothing_but_reasoning_and_a_call_is_allowed_where_one_is_demanded() -> None:
    allowed = Said("harmony", must_call=["trip"]).say("<|channel|>").constraint.allowed()
    assert allowed is not None
    assert [chr(token) for token in np.flatnonzero(allowed)] == ["a", "c"]
    answer = Said("harmony", must_call=["trip"], params=SamplingParams(thinking="off"))
    allowed = answer.say("<|channel|>").constraint.allowed()
    assert allowed is not None
    assert [chr(token) for token in np.flatnonzero(allowed)] == ["c"]


def test_in_channels_an_answer_in_a_form_may_be_a_call_instead() -> None:
    call = Said("harmony", response_format=YES).say(BEGUN["harmony"]).go_on()
    ((called, arguments),) = call.calls
    assert (called, call.constraint.complete) == ("trip", True)
    validate(arguments, TRIP)
    text = Said("harmony", response_format=YES).say("<|channel|>final<|message|>").go_on()
    assert text.said.endswith('<|message|>"yes"')
    assert text.constraint.complete
    other = Said("harmony", response_format=YES).say(BEGUN["harmony"].replace("trip", "none"))
    assert other.say("{}").constraint.allowed() is None  # which may end


@pytest.mark.parametrize("name", ["llama", "llama4", "qwen_coder", "gemma4", "lfm2"])
def test_an_answer_in_a_form_may_be_a_call_of_any_family(name: str) -> None:
    said = [Said(name, response_format=YES).go_on(seed) for seed in range(12)]
    assert {answer.said == '"yes"' or len(answer.calls) > 0 for answer in said} == {True}
    assert {answer.said == '"yes"' for answer in said} == {True, False}


# ------------------------------------------------------------------------------------- what is said


ARGUMENTS: dict[str, Any] = {
    "type": "object",
    "properties": {
        "b": {"type": "string"},
        "A": {"type": "integer"},
        "c": {"type": ["string", "null"]},
        "d": {"type": "array", "items": {"type": "boolean"}},
        "e": {"type": "object"},
    },
    "required": ["b"],
}


def call_of(name: str, arguments: str) -> str:
    """A call with arguments that are spelled as the family does."""
    family, form = BY_NAME[name], BY_NAME[name].form
    inner = f"{form.begin}{form.before_name}f{form.after_name}{arguments}{form.after_arguments}"
    return f"{'' if family.bare else family.opening}{inner}{form.closing}".replace("{line}", "")


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen_coder", "<parameter=b>\n\na\nb\n\n</parameter>\n"),
        ("qwen_coder", "<parameter=b>\n\n</parameter>\n<parameter=c>\nNone\n</parameter>\n"),
        ("qwen_coder", "<parameter=b>\n12\n</parameter>\n<parameter=d>\n[true]\n</parameter>\n"),
        ("glm", "\n<arg_key>b</arg_key>\n<arg_value></arg_value>\n"),
        ("glm", "<arg_key>b</arg_key><arg_value> x</arg_value>"),
        ("gemma4", 'A:3,b:<|"|>x<|"|>,c:None'),  # by the names of the members
        ("gemma4", 'b:<|"|><|"|>,d:[true,false],e:{k:[<|"|>v<|"|>,1.5e3]}'),
        ("lfm2", "b='it\\'s', A=3, c=None, d=[True, false], e={\"k\": ['v', 1.5], 'n': null}"),
        ("llama4", 'b="a\\n\\"b\\""'),
    ],
)
def test_what_templates_and_models_write_is_allowed(name: str, said: str) -> None:
    whole = call_of(name, said)
    for words in (PLAIN, MARKED[name]):
        assert words.accepts(demanded(name, words, ARGUMENTS), whole)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen_coder", "<parameter=$a-\u00e9 z>\n1\n</parameter>\n"),
        ("glm", "<arg_key>$a-\u00e9 z</arg_key><arg_value>1</arg_value>"),
        ("gemma4", "$a-\u00e9z:1"),
        ("lfm2", "\u00e9z=1"),
    ],
)
def test_names_may_be_odd(name: str, said: str) -> None:
    key = {"gemma4": "$a-\u00e9z", "lfm2": "\u00e9z"}.get(name, "$a-\u00e9 z")
    schema = {"type": "object", "properties": {key: {"const": 1}}, "additionalProperties": False}
    assert PLAIN.accepts(demanded(name, PLAIN, schema), call_of(name, said))


WORDS = st.text("ab1 \"'<>/{}[]:,\\\n\u00e9")
NUMBERS = st.floats(-1e300, 1e300)
KEYS = st.text("ab_", min_size=1)
FLAT = st.none() | st.booleans() | st.integers() | NUMBERS | WORDS
DEEP = st.lists(FLAT, max_size=2) | st.dictionaries(KEYS, FLAT, max_size=2)
VALUES = FLAT | DEEP | st.lists(DEEP, max_size=2) | st.dictionaries(KEYS, DEEP, max_size=2)
OF_TYPE = {
    "string": WORDS,
    "integer": st.integers(),
    "number": NUMBERS,
    "boolean": st.booleans(),
    "null": st.none(),
    "array": st.lists(VALUES, max_size=2),
    "object": st.dictionaries(KEYS, VALUES, max_size=2),
}
TYPED = {"type": "object", "properties": {type_: {"type": type_} for type_ in OF_TYPE}}


as_json = functools.partial(json.dumps, ensure_ascii=False)  # as templates do


def spelled(name: str, arguments: dict[str, Any]) -> str:
    """Arguments as the templates of a family write them."""
    if name == "qwen_coder":
        texts = {
            key: as_json(value) if isinstance(value, list | dict) else str(value)
            for key, value in arguments.items()
        }
        return "".join(f"<parameter={key}>\n{text}\n</parameter>\n" for key, text in texts.items())
    if name == "glm":
        texts = {
            key: value if isinstance(value, str) else as_json(value)
            for key, value in arguments.items()
        }
        return "".join(
            f"<arg_key>{key}</arg_key><arg_value>{text}</arg_value>" for key, text in texts.items()
        )
    if name == "gemma4":
        return ",".join(f"{key}:{gemma_value(value)}" for key, value in sorted(arguments.items()))
    return ", ".join(f"{key}={value!r}" for key, value in arguments.items())


@pytest.mark.parametrize("name", ["qwen_coder", "glm", "gemma4", "lfm2"])
@settings(max_examples=settings.default.max_examples // 4)
@given(arguments=st.fixed_dictionaries({}, optional=OF_TYPE))
def test_any_arguments_are_allowed_and_read_back(name: str, arguments: dict[str, Any]) -> None:
    ordered = {key: arguments[key] for key in OF_TYPE if key in arguments}
    whole = call_of(name, spelled(name, ordered))
    assert PLAIN.accepts(typed(name), whole)
    assert calls_of(read(BY_NAME[name], whole, tools=[tool("f", TYPED)])) == [("f", arguments)]


@functools.cache
def typed(name: str) -> str:
    return demanded(name, PLAIN, TYPED)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("qwen_coder", "<parameter=A>\n1\n</parameter>\n"),
        ("qwen_coder", "<parameter=b>\nx\n</parameter>\n<parameter=A>\nx\n</parameter>\n"),
        ("qwen_coder", "<parameter=b>\nx</parameter>y\n</parameter>\n"),
        ("qwen_coder", "<parameter=A>\n1\n</parameter>\n<parameter=b>\nx\n</parameter>\n"),
        ("glm", 2 * "<arg_key>b</arg_key><arg_value>x</arg_value>"),
        ("gemma4", 'b:<|"|>x<|"|>,A:3'),
        ("gemma4", "b:x"),
        ("lfm2", "b=3"),
        ("lfm2", "A=3"),
        ("llama4", "b='x', A='y'"),
        ("llama4", "b='x\ny'"),
    ],
)  # fmt: skip
def test_what_the_schema_forbids_is_not(name: str, said: str) -> None:
    whole = call_of(name, said)
    for words in (PLAIN, MARKED[name]):
        assert not words.accepts(demanded(name, words, ARGUMENTS), whole)


# --------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("parameter", "named"),
    [
        ({"type": "array", "uniqueItems": True}, "uniqueItems"),
        ({"not": {"type": "null"}}, "not"),
        ({"type": "object", "if": {}}, "if"),
        ({"type": "string", "format": "klingon"}, "klingon"),
        ({"type": "string", "pattern": "a(?=b)"}, "look-ahead"),
        ({"$ref": "http://127.0.0.1:9/x"}, "127.0.0.1"),
    ],
)
def test_a_keyword_that_cannot_be_enforced_is_named_with_its_tool(
    name: str, parameter: Any, named: str
) -> None:
    schema = {"type": "object", "properties": {"a": parameter}}
    with pytest.raises(CarError) as refusal:
        demanded(name, PLAIN, schema, called="strange")
    path = "$.tools[0].function.parameters"
    assert (refusal.value.kind, refusal.value.data["path"]) == ("unsupported_mode", path)
    assert f"at `{path}`" in refusal.value.message
    assert named in refusal.value.message
    assert "the parameters of strange:" in refusal.value.message


@pytest.mark.parametrize(
    ("name", "properties", "named"),
    [
        ("lfm2", {"from": {}}, "'from' is no name in Python"),
        ("llama4", {"a-b": {}}, "'a-b' is no name in Python"),
        ("glm", {"a<b": {}}, "'a<b'"),
        ("gemma4", {"a b": {}}, "'a b'"),
        ("gemma4", {"a": {"enum": ['<|"|>']}}, "enumeration"),
        ("glm", {"a": {"const": "</arg_value>"}}, "enumeration"),
        ("qwen_coder", {"a": {"anyOf": [{"type": "string"}, {"type": "integer", "minimum": 1}]}},
         '"minimum"'),
        ("qwen_coder", {"a": {"allOf": [{"type": "string"}, {"minLength": 2}]}}, '"allOf"'),
        ("gemma4", {"a": {"oneOf": [{"type": "string"}, {"minLength": 2}]}}, '"oneOf"'),
        ("gemma4", {"a": {"anyOf": [{}], "minLength": 2}}, '"anyOf"'),
    ],
)  # fmt: skip
def test_what_a_family_cannot_say_is_refused(name: str, properties: Any, named: str) -> None:
    with pytest.raises(CarError) as refusal:
        demanded(name, PLAIN, {"type": "object", "properties": properties})
    assert refusal.value.kind == "unsupported_mode"
    assert named in refusal.value.message


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("parameters", "kind"),
    [
        ({"properties": {"a": {"type": "array", "uniqueItems": True}}}, "unsupported_mode"),
        ({"properties": {"a": {"type": "objekt"}}, "required": ["a"]}, "invalid_request"),
    ],
)
def test_a_tool_that_may_be_called_is_refused_as_one_that_must(
    name: str, parameters: Any, kind: str
) -> None:
    strange = tool("strange", parameters)
    with pytest.raises(CarError) as chosen:
        offered(name, *TOOLS, strange)
    with pytest.raises(CarError) as must:
        offered(name, *TOOLS, strange, must_call=["strange"])
    assert (chosen.value.kind, chosen.value.detail, chosen.value.extra) == (
        kind,
        must.value.detail,
        must.value.extra,
    )
    assert chosen.value.data["path"].startswith("$.tools[2].function.parameters")
    offered(name, *TOOLS, strange, must_call=["trip"])


@pytest.mark.parametrize("description", ["", "x" * 2**17])
def test_what_is_known_of_a_tool_is_known_of_that_one_alone(description: str) -> None:
    """Also where it is too long to be remembered."""
    right, wrong = (
        {**tool("f", {"properties": {"from": schema}, "description": description})}
        for schema in ({"type": "string"}, {"not": {}})
    )
    for _ in range(2):
        offered("hermes", right)
        for name, each in (("hermes", wrong), ("lfm2", right)):
            with pytest.raises(CarError, match="the parameters of f:"):
                offered(name, each)


def test_a_tool_that_a_model_cannot_name_is_refused() -> None:
    for name in NAMES:
        with pytest.raises(CarError, match="its name: 'a tool'") as refusal:
            demanded(name, PLAIN, {}, called="a tool")
        assert refusal.value.kind == "invalid_request"
        assert refusal.value.data["path"] == "$.tools[0].function.name"
    with pytest.raises(CarError, match="'get-it' is no name in Python"):
        demanded("lfm2", PLAIN, {}, called="get-it")
    demanded("lfm2", PLAIN, {}, called="web.get_it")
    demanded("glm", PLAIN, {}, called="get-it")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    "parameter",
    [
        {"type": "objekt"},
        {"$ref": "#/$defs/none"},
        {"type": "string", "pattern": "("},
        {"type": "string", "pattern": "[z-a]"},
        {"type": "string", "enum": [1]},
        {"type": "array", "minItems": 3, "maxItems": 1},
        {"type": "string", "minLength": 3, "maxLength": 1},
        {"type": "integer", "minimum": 3, "maximum": 1},
        {"type": 5},
        {"anyOf": []},
        {"properties": 5},
        False,
    ],
)
def test_a_schema_of_no_value_is_refused(name: str, parameter: Any) -> None:
    schema = {"type": "object", "properties": {"a": parameter}, "required": ["a"],
              "$defs": {}}  # fmt: skip
    with pytest.raises(CarError) as refusal:
        demanded(name, PLAIN, schema, called="strange")
    assert refusal.value.kind == "invalid_request"
    assert refusal.value.data["path"].startswith("$.tools[0].function.parameters")
    assert "the parameters of strange are wrong: " in refusal.value.message


@pytest.mark.parametrize("name", sorted({*NAMES} - {"harmony", "hermes"}))
@pytest.mark.parametrize("parameter", [{"enum": ["a"], "pattern": "("}, {"$ref": "#/$defs/circle"}])
def test_families_without_json_see_more_that_is_wrong(name: str, parameter: Any) -> None:
    schema = {"type": "object", "properties": {"a": parameter}, "required": ["a"],
              "$defs": {"circle": {"$ref": "#/$defs/circle"}}}  # fmt: skip
    with pytest.raises(CarError) as refusal:
        demanded(name, PLAIN, schema)
    assert refusal.value.kind == "invalid_request"


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"properties": ["city"]}, ".properties"),
        ({"properties": {"city": {"type": "objekt"}}}, ".properties.city.type"),
        ({"properties": {"city": {"pattern": "["}}}, ".properties.city.pattern"),
    ],
)
def test_where_a_schema_is_wrong_is_said_as_far_as_it_is_known(
    name: str, schema: Any, place: str
) -> None:
    with pytest.raises(CarError) as refusal:
        demanded(name, PLAIN, schema)
    path = f"$.tools[0].function.parameters{place}"
    assert (refusal.value.kind, refusal.value.data["path"]) == ("invalid_request", path)
    assert refusal.value.message.endswith(f"mend the schema - at `{path}`")


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("hermes", '<tool_call>\n{"name": "f", "arguments": %s}\n</tool_call>'),
        ("harmony", "<|channel|>commentary to=functions.f<|message|>%s"),
    ],
)
@pytest.mark.parametrize(
    "schema",
    [{"type": ["object", "array"]}, {"anyOf": [{"type": "object"}, {"type": "array"}]}],
)
def test_arguments_are_an_object_whatever_else_the_schema_allows(
    name: str, call: str, schema: Any
) -> None:
    words = MARKED[name]
    grammar = demanded(name, words, schema)
    assert words.accepts(grammar, call % "{}")
    assert not words.accepts(grammar, call % "[]")
    with pytest.raises(CarError) as refusal:
        demanded(name, words, {"anyOf": [{"type": "array"}, {"type": "null"}]})
    assert refusal.value.kind == "invalid_request"


def test_a_schema_that_refers_to_itself_is_enforced() -> None:
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}, "v": {"const": 1}},
            "required": ["v"], "additionalProperties": False}  # fmt: skip
    schema = {"type": "object", "properties": {"n": {"$ref": "#/$defs/node"}}, "required": ["n"],
              "$defs": {"node": node}}  # fmt: skip
    grammar = demanded("lfm2", PLAIN, schema)
    start, end = "<|tool_call_start|>[f(n=", ")]<|tool_call_end|>"
    assert PLAIN.accepts(grammar, f'{start}{{"next": {{"v": 1}}, "v": 1}}{end}')
    assert not PLAIN.accepts(grammar, f'{start}{{"next": {{"w": 1}}, "v": 1}}{end}')
