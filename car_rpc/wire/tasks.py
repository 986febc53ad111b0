"""Parameters and results of the tasks that judge: ``classify``, ``rerank`` and ``ground``."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, WireStruct
from car_rpc.wire.content import ContentBlock

#: What a document is judged by where the request does not say (Qwen3-Reranker's own default).
RERANK_INSTRUCTION = "Given a web search query, retrieve relevant passages that answer the query"


class ClassifyParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``classify``.

    Attributes:
        text: The text.
        labels: What it may be, in words that the model can judge.
        model: Id or name of a model with the capability ``classify`` or ``generate``.
        method: ``likelihood`` compares how likely the model finds each label as its answer,
            and how likely it finds them anyway; ``generate`` lets it answer and compares the
            answer with the labels. ``auto`` is the first where the model's probabilities can be
            read, which is so for GGUF models.
    """

    text: str
    labels: Annotated[
        list[Annotated[str, Meta(min_length=1, max_length=1024)]],
        Meta(min_length=1, max_length=256),
    ]
    model: str | UnsetType = UNSET
    method: Literal["auto", "likelihood", "generate"] = "auto"


class LabelScore(WireStruct, frozen=True, kw_only=True):
    """How well a label fits.

    Attributes:
        label: The label, as it was given.
        score: From 0 to 1. All scores add up to 1, or are 0 where no label fits the answer.
    """

    label: str
    score: float


class ClassifyResult(WireStruct, frozen=True, kw_only=True):
    """The labels, the best first; equal ones keep their order.

    Attributes:
        results: The labels and their scores.
        model_used: Id of the model.
        method: How it was done.
    """

    results: list[LabelScore]
    model_used: str
    method: Literal["likelihood", "generate"]


class RerankParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``rerank``.

    Attributes:
        query: What is looked for.
        documents: Texts to judge.
        model: Name or id of a model with the capability ``rerank``.
        top_n: Return only so many; absent returns all.
        instruction: What makes a document fit, for models that were trained to be told.
    """

    query: str
    documents: Annotated[list[str], Meta(max_length=1024)]
    model: str | UnsetType = UNSET
    top_n: NonNegative | UnsetType = UNSET
    instruction: str = RERANK_INSTRUCTION


class RankedDocument(WireStruct, frozen=True, kw_only=True):
    """A document and how well it fits.

    Attributes:
        index: Its place in the request, from 0.
        score: From 0 to 1; it orders documents, and is no probability that can be relied on.
        document: The document.
    """

    index: NonNegative
    score: float
    document: str


class RerankResult(WireStruct, frozen=True, kw_only=True):
    """The documents, the best first; equal ones keep their order.

    Attributes:
        ranked: The documents and their scores.
        model_used: Id of the model; null without documents, which need none.
    """

    ranked: list[RankedDocument]
    model_used: str | None


class GroundParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``ground``.

    Attributes:
        image: The image, as a content block of type ``image``.
        prompt: What to look for in it.
        model: Id or name of a model with the capability ``grounding``.
    """

    image: ContentBlock
    prompt: str
    model: str | UnsetType = UNSET


class BoundingBox(WireStruct, frozen=True, kw_only=True):
    """A rectangle in an image; the origin is its upper left corner.

    Attributes:
        x_min: Left edge.
        y_min: Upper edge.
        x_max: Right edge.
        y_max: Lower edge.
        unit: What the edges are measured in: ``pixel`` of the image as the model saw it, or
            ``fraction`` of its width and height, from 0 to 1.
        label: What is in it, as the model called it.
    """

    x_min: float
    y_min: float
    x_max: float
    y_max: float
    unit: Literal["pixel", "fraction"]
    label: str | UnsetType = UNSET


class GroundResult(WireStruct, frozen=True, kw_only=True):
    """Where the model found what was asked for.

    Attributes:
        boxes: The boxes that its answer holds, in their order.
        raw_text: The answer.
        model_used: Id of the model.
    """

    boxes: list[BoundingBox]
    raw_text: str
    model_used: str
