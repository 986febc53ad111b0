"""How families of models write their calls, each as a generator that reads them."""

from __future__ import annotations

import ast
import json
import math
import re
from typing import TYPE_CHECKING, Any, TypeAlias

from car_rpc.workers.text.calls.schema import TYPES, type_of
from car_rpc.workers.text.calls.source import BadToolCall, parsed
from car_rpc.workers.text.calls.writer import check_object

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from car_rpc.wire.events import StreamEvent
    from car_rpc.workers.text.calls.source import Source
    from car_rpc.workers.text.calls.writer import CallWriter

    Reading: TypeAlias = Generator[StreamEvent | None, None, None]
    Reader: TypeAlias = Callable[[Source, CallWriter], Reading]

#: DeepSeek's markers, whose lines and underscores are not those of ASCII.
DEEPSEEK_CALLS, DEEPSEEK_CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
DEEPSEEK_CALL, DEEPSEEK_CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>"
DEEPSEEK_SEP = "<｜tool▁sep｜>"

#: Names of the member that holds the arguments.
_ARGUMENTS = ("arguments", "parameters")

#: Python's spelling of what JSON spells otherwise.
_CONSTANTS = {
    "True": True,
    "False": False,
    "None": None,
    "true": True,
    "false": False,
    "null": None,
}

_ESCAPED = re.compile(r"\\.")
_SURROGATE = re.compile("[\\ud800-\\udfff]")


def object_call(source: Source, calls: CallWriter) -> Reading:
    """Read ``{"name": …, "arguments": {…}}`` without telling of its end.

    Arguments may also be called ``parameters``, come as a string that holds JSON, or be absent.
    They are told of as they come where the name came before them.
    """
    name, call_id, told = "", "", False
    arguments: Any = None
    yield from source.expect("{")
    while True:
        yield from source.space()
        if (yield from source.maybe("}")):
            break
        key = parsed((yield from source.json()))
        yield from source.space()
        yield from source.expect(":")
        yield from source.space()
        opening = yield from source.peek()
        if key in _ARGUMENTS and name and opening == "{" and not told:
            yield calls.start(name, call_id)
            yield from calls.json_arguments(source)
            told = True
        else:
            value = parsed((yield from source.json()))
            if key == "name" and isinstance(value, str):
                name = value
            elif key == "id" and isinstance(value, str):
                call_id = value
            elif key in _ARGUMENTS:
                arguments = value
        yield from source.space()
        if not (yield from source.maybe(",")):
            yield from source.expect("}")
            break
    if not told:
        text = arguments if isinstance(arguments, str) else json.dumps(arguments or {})
        check_object(text)
        yield calls.start(name, call_id)
        yield calls.arguments(text)


def tool_call(source: Source, calls: CallWriter) -> Reading:
    """What follows ``<tool_call>``: JSON (Hermes, Qwen) or a function in tags (Qwen-Coder)."""
    yield from source.space()
    if (yield from source.maybe("<function=")):
        yield from _function(source, calls)
    else:
        yield from object_call(source, calls)
    yield from source.close("</tool_call>")
    yield calls.end()


def _function(source: Source, calls: CallWriter) -> Reading:
    name, _ = yield from source.until(">")
    name = name.strip()
    yield calls.start(name)
    while True:
        yield from source.space()
        if (yield from source.maybe("</function>")):
            break
        yield from source.expect("<parameter=")
        key, _ = yield from source.until(">")
        yield from source.maybe("\n")
        ends = ("\n</parameter>", "</parameter>")
        yield from _tagged(source, calls, (name, key.strip()), ends)
    yield calls.end_members()


def glm(source: Source, calls: CallWriter) -> Reading:
    """What follows ``<tool_call>``: a name, then keys and values in tags."""
    name, marker = yield from source.until("<arg_key>", "</tool_call>")
    name = name.strip()
    yield calls.start(name)
    while marker == "<arg_key>":
        key, _ = yield from source.until("</arg_key>")
        yield from source.space()
        yield from source.expect("<arg_value>")
        yield from _tagged(source, calls, (name, key.strip()), ("</arg_value>",))
        yield from source.space()
        if (yield from source.maybe("</tool_call>")):
            break
        yield from source.expect("<arg_key>")
    yield calls.end_members()
    yield calls.end()


def _tagged(
    source: Source, calls: CallWriter, parameter: tuple[str, str], ends: tuple[str, ...]
) -> Reading:
    """Read a value between tags; its type is the one that the tool declares."""
    name, key = parameter
    if calls.is_text(name, key):
        yield calls.arguments(calls.key(key) + '"')
        yield from source.stream_until(*ends, tell=lambda text: calls.arguments(_escaped(text)))
        yield calls.arguments('"')
    else:
        types = calls.types(name, key)
        text, end = yield from source.until(*ends)
        while _is_in_string(text, types):
            more, next_end = yield from source.until(*ends)
            text, end = text + end + more, next_end
        yield calls.member(key, json_of(text, types))


def _escaped(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]


def _is_in_string(text: str, types: frozenset[str]) -> bool:
    """Whether this much of a declared list or object ends within one of its texts."""
    declared = {"[": "array", "{": "object"}.get(text.lstrip()[:1])
    if declared not in types or types == TYPES:
        return False
    return bool(_ESCAPED.sub("", text).count('"') % 2)


def json_of(text: str, types: frozenset[str] = TYPES) -> str:
    """JSON of a value that is not declared a text alone; a text where it is nothing else.

    Args:
        text: What the model wrote.
        types: What the value is declared to be.
    """
    stripped = text.strip()
    if stripped in _CONSTANTS:
        stripped = json.dumps(_CONSTANTS[stripped])
    try:
        found = type_of(parsed(stripped))
    except BadToolCall:
        return json.dumps(text, ensure_ascii=False)
    is_text = "string" in types and (found == "string" or found not in types)
    return json.dumps(text, ensure_ascii=False) if is_text else stripped


def mistral(source: Source, calls: CallWriter) -> Reading:
    """What follows ``[TOOL_CALLS]``: a list of objects, or ``name[ARGS]{…}``."""
    yield from source.space()
    if (yield from source.maybe("[")):
        while True:
            yield from source.space()
            yield from object_call(source, calls)
            yield calls.end()
            source.commit()
            yield from source.space()
            if not (yield from source.maybe(",")):
                yield from source.close("]")
                return
    name = yield from source.word()
    call_id = ""
    if (yield from source.maybe("[CALL_ID]")):
        call_id = yield from source.word()
    yield from source.maybe("[ARGS]")
    yield from source.space()
    yield calls.start(name, call_id)
    yield from calls.json_arguments(source)
    yield calls.end()


def llama(source: Source, calls: CallWriter) -> Reading:
    """JSON objects with ``name`` and ``parameters``, one after the other with ``;`` between."""
    while True:
        yield from source.space()
        if (yield from source.peek()) != "{":
            text = yield from _to_the_end(source)
            yield from _python_calls(text.removeprefix("[").removesuffix("]"), calls)
            return
        yield from object_call(source, calls)
        yield calls.end()
        source.commit()
        yield from source.space()
        if not (yield from source.maybe(";")):
            return


def _to_the_end(source: Source) -> Generator[None, None, str]:
    text = source.rest()
    while not source.ended:
        yield None
        text += source.rest()
    return text


def kimi(source: Source, calls: CallWriter) -> Reading:
    """What follows ``<|tool_calls_section_begin|>``."""
    while True:
        yield from source.space()
        if (yield from source.maybe("<|tool_calls_section_end|>")):
            return
        if not (yield from source.peek()):
            return
        yield from source.expect("<|tool_call_begin|>")
        call_id, _ = yield from source.until("<|tool_call_argument_begin|>")
        call_id = call_id.strip()
        name = call_id.removeprefix("functions.").rpartition(":")[0] or call_id
        yield from source.space()
        yield calls.start(name, call_id)
        yield from calls.json_arguments(source)
        yield from source.close("<|tool_call_end|>")
        yield calls.end()
        source.commit()


def deepseek(source: Source, calls: CallWriter) -> Reading:
    """DeepSeek's calls, with their arguments alone (V3.1) or in a fence of Markdown (V3, R1)."""
    while True:
        yield from source.space()
        if (yield from source.maybe(DEEPSEEK_CALLS_END)):
            return
        if not (yield from source.peek()):
            return
        yield from source.expect(DEEPSEEK_CALL)
        name, _ = yield from source.until(DEEPSEEK_SEP)
        yield from source.space()
        fenced = (yield from source.peek()) != "{"
        if fenced:
            name, _ = yield from source.until("\n")
            yield from source.expect("```json")
            yield from source.space()
        yield calls.start(name.strip())
        yield from calls.json_arguments(source)
        if fenced:
            yield from source.close("```")
        yield from source.close(DEEPSEEK_CALL_END)
        yield calls.end()
        source.commit()


def pythonic(source: Source, calls: CallWriter) -> Reading:
    """What follows ``<|tool_call_start|>``: ``[f(a=1), g(b="x")]``."""
    text, _ = yield from source.until("<|tool_call_end|>")
    yield from _python_calls(text.strip().removeprefix("[").removesuffix("]"), calls)


def bare_pythonic(source: Source, calls: CallWriter) -> Reading:
    """``[f(a=1)]`` as the whole answer."""
    yield from source.expect("[")
    yield from source.word()
    yield from source.expect("(")
    yield from _to_the_end(source)
    yield from _python_calls(source.raw.strip().removeprefix("[").removesuffix("]"), calls)


def _python_calls(text: str, calls: CallWriter) -> Reading:
    try:
        nodes = ast.parse(f"[{text}]", mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise BadToolCall(f"it is no list of calls ({error})") from error
    found = [_python_call(node) for node in getattr(nodes, "elts", [])]
    if not found:
        raise BadToolCall("it holds no call")
    for name, arguments in found:
        yield calls.start(name)
        for key, value in arguments.items():
            yield calls.member(key, json.dumps(value, ensure_ascii=False))
        yield calls.end_members()
        yield calls.end()


def _python_call(node: ast.expr) -> tuple[str, dict[str, Any]]:
    if not isinstance(node, ast.Call) or node.args:
        raise BadToolCall("it is no call with named arguments")
    name = ast.unparse(node.func).removesuffix(".call")  # which Llama adds to tools of its own
    return name, {str(keyword.arg): _python_value(keyword.value) for keyword in node.keywords}


def _python_value(node: ast.expr) -> Any:
    match node:
        case ast.Name(id=name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [_python_value(item) for item in items]
        case ast.Dict(keys=keys, values=values):
            pairs = zip(keys, values, strict=True)
            return {str(_python_value(key)): _python_value(value) for key, value in pairs if key}
        case ast.Constant(value=str() | int() | float() | bool() | None as value):
            return _checked(value)
        case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
            return _checked(-value)
        case _:
            raise BadToolCall(f"{ast.unparse(node)[:40]} is no plain value")


def _checked(value: Any) -> Any:
    """A value that JSON has, too: it knows no infinity, and no half of a character."""
    if isinstance(value, float) and not math.isfinite(value):
        raise BadToolCall("one of its numbers is too large")
    if isinstance(value, str) and _SURROGATE.search(value):
        raise BadToolCall("one of its texts holds half of a character")
    return value


def gemma(quote: str, closing: str) -> Reader:
    """What follows the opening marker of Gemma's calls: ``call:name{key:value}``.

    Args:
        quote: What stands around texts.
        closing: The closing marker.
    """

    def read(source: Source, calls: CallWriter) -> Reading:
        yield from source.space()
        yield from source.expect("call:")
        name, _ = yield from source.until("{")
        yield calls.start(name.strip())
        if not (yield from source.maybe("}")):
            while True:
                key, _ = yield from source.until(":")
                yield calls.member(key.strip(), (yield from _gemma_value(source, quote)))
                if not (yield from source.maybe(",")):
                    break
            yield from source.expect("}")
        yield calls.end_members()
        yield from source.close(closing)
        yield calls.end()

    return read


def _gemma_value(source: Source, quote: str) -> Generator[None, None, str]:
    """Read a value; returns it as JSON."""
    if (yield from source.maybe(quote)):
        text, _ = yield from source.until(quote)
        return json.dumps(text, ensure_ascii=False)
    if (yield from source.maybe("[")):
        items: list[str] = []
        while not (yield from source.maybe("]")):
            items.append((yield from _gemma_value(source, quote)))
            yield from source.maybe(",")
        return f"[{', '.join(items)}]"
    if (yield from source.maybe("{")):
        members: list[str] = []
        while not (yield from source.maybe("}")):
            key, _ = yield from source.until(":")
            value = yield from _gemma_value(source, quote)
            members.append(f"{json.dumps(key.strip(), ensure_ascii=False)}: {value}")
            yield from source.maybe(",")
        return f"{{{', '.join(members)}}}"
    word = yield from source.word()
    if not word:
        raise BadToolCall("a value is missing")
    return json_of(word)
