from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from car_rpc.engine.boxes import MAX_BOXES, boxes_of, parse_boxes
from car_rpc.testing import scripted_model
from car_rpc.wire.tasks import BoundingBox


def box(*edges: float, unit: Any = "fraction", label: Any = UNSET) -> BoundingBox:
    x_min, y_min, x_max, y_max = edges
    return BoundingBox(x_min=x_min, y_min=y_min, x_max=x_max, y_max=y_max, unit=unit, label=label)


@pytest.mark.parametrize(
    ("answer", "boxes"),
    [
        (
            'Here:\n```json\n[{"bbox_2d": [10, 20, 30.5, 40], "label": "cat"}]\n```',
            [box(10, 20, 30.5, 40, unit="pixel", label="cat")],
        ),
        (
            '{"objects": [{"box_2d": [100, 200, 300, 400], "label": "dog"}]}',
            [box(0.2, 0.1, 0.4, 0.3, label="dog")],
        ),
        (
            "<|object_ref_start|>cat<|object_ref_end|><|box_start|>(100,200),(300,400)<|box_end|>",
            [box(0.1, 0.2, 0.3, 0.4, label="cat")],
        ),
        (
            "<ref>birds</ref><box>(0, 0),(500,500)</box><box>(500,500),(1000,1000)</box>",
            [box(0, 0, 0.5, 0.5, label="birds"), box(0.5, 0.5, 1, 1, label="birds")],
        ),
        (
            "<loc0256><loc0512><loc0768><loc1023> cat ; <loc0000><loc0000><loc0512><loc0512> dog",
            [
                box(0.5, 0.25, 1023 / 1024, 0.75, label="cat"),
                box(0, 0, 0.5, 0.5, label="dog"),
            ],
        ),
        ('[{"bbox_2d": [30, 40, 10, 20]}]', [box(10, 20, 30, 40, unit="pixel")]),
        # A quotation mark in prose, and an answer that was cut.
        ('5" wide\n[{"bbox_2d": [1, 2, 3, 4]}, {"bbox', [box(1, 2, 3, 4, unit="pixel")]),
        ('[{"bbox_2d": [1, 2, 3]}, {"bbox_2d": "x"}, {"bbox_2d": [1, 2, 3, true]}]', []),
        ("There is no bbox_2d: [1, 2, 3, 4].", []),
    ],
)
def test_the_formats_that_models_write_are_read(answer: str, boxes: list[BoundingBox]) -> None:
    assert parse_boxes(answer) == boxes


def test_a_model_that_counts_in_thousandths_is_read_so() -> None:
    (read,) = parse_boxes('[{"bbox_2d": [100, 200, 300, 400]}]', counts_pixels=False)
    assert read == box(0.1, 0.2, 0.3, 0.4)


def test_no_answer_has_more_boxes_than_are_read() -> None:
    assert len(parse_boxes("<box>(1,2),(3,4)</box>" * (MAX_BOXES + 1))) == MAX_BOXES


MARKUP = st.sampled_from(
    ['[{"bbox_2d":[1,2,3,4]}]', '"', "[", "{", "]", "}", "\\", "\n", "bbox_2d", "<box>(1,2),(3,4)"]
)


@given(st.lists(MARKUP | st.text(max_size=5)).map("".join))
def test_any_answer_is_read_and_every_box_has_its_edges_in_order(answer: str) -> None:
    for each in parse_boxes(answer):
        assert each.x_min <= each.x_max
        assert each.y_min <= each.y_max


@pytest.mark.parametrize(
    ("model_id", "unit"), [("q/qwen2.5-vl-7b:q4", "pixel"), ("q/qwen3-vl-8b:q4", "fraction")]
)
def test_the_model_says_what_its_boxes_count(model_id: str, unit: str) -> None:
    text = '[{"bbox_2d": [100, 200, 300, 400]}]'
    (read,) = boxes_of(scripted_model(model_id, [], ["generate", "grounding"]), text)
    assert read.unit == unit
    assert boxes_of(scripted_model(model_id, [], ["generate", "vision"]), text) == []
