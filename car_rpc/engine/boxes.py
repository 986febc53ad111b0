"""Read the boxes that a model names in its answer. Pure.

The formats are those that models were trained to write:

- JSON objects with ``bbox_2d`` (Qwen2.5-VL, Qwen3-VL: x before y) or ``box_2d`` (Gemini, Gemma:
  y before x, in thousandths);
- ``<|object_ref_start|>label<|object_ref_end|><|box_start|>(x,y),(x,y)<|box_end|>`` (Qwen2-VL)
  and ``<ref>label</ref><box>(x,y),(x,y)</box>`` (Qwen-VL), in thousandths;
- ``<loc0123><loc0123><loc0123><loc0123> label`` (PaliGemma: y before x, in 1024ths).

Qwen2.5-VL counts in pixels and Qwen3-VL in thousandths, with the same member; the model's family
says which.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import UNSET

from car_rpc.wire.models import ModelSchema
from car_rpc.wire.tasks import BoundingBox

#: Most boxes that are read from one answer; more are no answer.
MAX_BOXES = 1000

#: What one and the whole width are in the formats that count so.
_THOUSANDTHS, _LOCATIONS = 1000.0, 1024.0

_NUMBER = r"\s*(-?\d{1,6}(?:\.\d{1,6})?)\s*"
_POINTS = rf"\({_NUMBER},{_NUMBER}\)\s*,\s*\({_NUMBER},{_NUMBER}\)"
_REFERENCES = re.compile(
    r"(?:<\|object_ref_start\|>(?P<a>[^<]{0,256})<\|object_ref_end\|>|<ref>(?P<b>[^<]{0,256})</ref>)"
    r"|(?:<\|box_start\|>|<box>)" + _POINTS
)
_LOCATED = re.compile(r"((?:<loc\d{4}>){4})([^<;]{0,256})")

#: What shows where JSON begins and ends.
_MARKS = re.compile(r'\\.|["\n\[\]{}]')

_DEEPEST = 8

_EDGES = 4


class _Found(NamedTuple):
    """Edges as they were written, x before y, with what is a whole width; ``None`` for pixels."""

    edges: list[float]
    whole: float | None
    label: str


def boxes_of(model: ModelSchema, text: str) -> list[BoundingBox]:
    """The boxes in a model's answer; none where it is not a model that finds things in images."""
    if "grounding" not in model.capabilities:
        return []
    # Qwen3-VL writes thousandths.
    counts_pixels = "qwen3" not in f"{model.family} {model.id}".lower()
    return parse_boxes(text, counts_pixels=counts_pixels)


def parse_boxes(text: str, *, counts_pixels: bool = True) -> list[BoundingBox]:
    """The boxes of an answer, in their order. What is no box is left out.

    Args:
        text: The answer.
        counts_pixels: Whether ``bbox_2d`` is in pixels (Qwen2.5-VL), not in thousandths
            (Qwen3-VL).
    """
    boxes: list[BoundingBox] = []
    for found in _found(text, counts_pixels=counts_pixels):
        if len(boxes) >= MAX_BOXES:
            break
        whole = found.whole or 1.0
        x1, y1, x2, y2 = (edge / whole for edge in found.edges)
        boxes.append(
            BoundingBox(
                x_min=min(x1, x2),
                y_min=min(y1, y2),
                x_max=max(x1, x2),
                y_max=max(y1, y2),
                unit="pixel" if found.whole is None else "fraction",
                label=found.label or UNSET,
            )
        )
    return boxes


def _found(text: str, *, counts_pixels: bool) -> Iterator[_Found]:
    if "_2d" in text:
        for value in _json_values(text):
            yield from _in_json(value, None if counts_pixels else _THOUSANDTHS, _DEEPEST)
    label = ""
    for match in _REFERENCES.finditer(text):
        name = match["a"] or match["b"]
        if name is not None:
            label = name.strip()
        else:
            yield _Found([float(edge) for edge in match.groups()[2:]], _THOUSANDTHS, label)
    for match in _LOCATED.finditer(text):
        y1, x1, y2, x2 = (float(edge) for edge in re.findall(r"\d{4}", match[1]))
        yield _Found([x1, y1, x2, y2], _LOCATIONS, match[2].strip())


def _json_values(text: str) -> Iterator[Any]:
    """The JSON in a text, which models like to wrap in prose and fences."""
    decode = msgspec.json.Decoder().decode
    for start, end in _bracketed(text):
        try:
            yield decode(text[start:end])
        except (msgspec.DecodeError, RecursionError):
            continue


def _bracketed(text: str) -> list[tuple[int, int]]:
    """The outermost places in brackets that are closed again, outside of strings."""
    opened: list[int] = []
    spans: list[tuple[int, int]] = []
    in_string = False
    for match in _MARKS.finditer(text):
        mark = match[0]
        if mark == "\n":  # ends the string that a quotation mark in prose seemed to begin
            in_string = False
        elif mark == '"':
            in_string = not in_string
        elif in_string or mark[0] == "\\":
            continue
        elif mark in "[{":
            opened.append(match.start())
        elif opened:
            start = opened.pop()
            while spans and spans[-1][0] > start:
                spans.pop()
            spans.append((start, match.end()))
    return spans


def _in_json(value: Any, whole: float | None, levels: int) -> Iterator[_Found]:
    if not levels:
        return
    if isinstance(value, list):
        for member in cast("list[Any]", value):  # type: ignore[redundant-cast]  # pyright needs it
            yield from _in_json(member, whole, levels - 1)
    elif isinstance(value, dict):
        members = cast("dict[str, Any]", value)
        label = members.get("label")
        name = label if isinstance(label, str) else ""
        if (edges := _edges(members.get("bbox_2d"))) is not None:
            yield _Found(edges, whole, name)
        elif (edges := _edges(members.get("box_2d"))) is not None:
            y1, x1, y2, x2 = edges
            yield _Found([x1, y1, x2, y2], _THOUSANDTHS, name)
        else:
            for member in members.values():
                yield from _in_json(member, whole, levels - 1)


def _edges(value: Any) -> list[float] | None:
    if not isinstance(value, list):
        return None
    numbers = cast("list[Any]", value)  # type: ignore[redundant-cast]  # pyright needs it
    edges = [float(number) for number in numbers if type(number) in (int, float)]
    return edges if len(edges) == len(numbers) == _EDGES else None
