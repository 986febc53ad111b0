import asyncio
from collections.abc import Sequence
from typing import Any

import msgspec
import pytest
from msgspec import UNSET

from car_rpc.engine import judging
from car_rpc.engine.generation import Origin
from car_rpc.engine.routing import PreferredModels, RoutingInputs
from car_rpc.errors import CarError
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.router.complexity import assess
from car_rpc.testing import scripted_model
from car_rpc.wire.content import Message
from car_rpc.wire.events import TextDelta
from car_rpc.wire.models import Capability, ModelSchema
from car_rpc.wire.tasks import ClassifyParams, GroundParams, RerankParams

ORIGIN = Origin(3, "classify", b"{}")
IMAGE = {"type": "image", "source": {"type": "url", "url": "https://example.com/cat.png"}}


def with_models(world: Any, tmp_path: Any, *capabilities: list[Capability]) -> Any:
    models = [
        scripted_model(f"test/m{number}:a", [], each) for number, each in enumerate(capabilities)
    ]
    registry = Registry(models, ModelStore(tmp_path / "other.db"), tmp_path)
    world.engine._registry = world.engine.routing._registry = registry
    return world


class Probabilities:
    """A backend's part: likelihoods by the prompt, scores by the document's length."""

    def __init__(self, backend: Any) -> None:
        self.prompts: list[str] = []
        backend.judges = lambda _: True
        backend.score = self.score
        backend.rank = self.rank

    async def score(
        self, model: ModelSchema, messages: Sequence[Message], answers: Sequence[str]
    ) -> list[float]:
        self.prompts.append(str(messages[0].content))
        has_content = "N/A" not in self.prompts[-1]
        return [-1.0 * len(answer) if has_content else -1.0 for answer in answers]

    async def rank(
        self, model: ModelSchema, query: str, documents: Sequence[str], instruction: str
    ) -> list[float]:
        return [1 / len(document) for document in documents]


async def test_the_prompt_to_classify_is_fixed(world: Any, play: Any) -> None:
    world.backend.play = play(TextDelta(text="B"))
    params = ClassifyParams(text="t", labels=["a", "b"], model="test/one:a")
    result = await judging.classify(world.engine, params, ORIGIN)
    assert [(each.label, each.score) for each in result.results] == [("b", 1.0), ("a", 0.0)]
    assert (result.model_used, result.method) == ("test/one:a", "generate")
    (call,) = world.backend.calls
    assert msgspec.json.decode(call.raw_request) == {
        "model": "test/one:a",
        "prompt": "Classify the following text into one of these categories:\n1. a\n2. b\n\n"
        "Text: t\n\nRespond with ONLY the category name, nothing else.",
        "intent": {"task": "classify"},
        "params": {"temperature": 0, "max_tokens": 32, "thinking": "off"},
    }


async def test_likelihoods_are_read_where_they_can_be(world: Any) -> None:
    probabilities = Probabilities(world.backend)
    params = ClassifyParams(text="t", labels=["longer", "short"], model="test/one:a")
    result = await judging.classify(world.engine, params, ORIGIN)
    assert result.method == "likelihood"
    assert [each.label for each in result.results] == ["short", "longer"]
    assert [prompt.partition("Text: ")[2][:3] for prompt in probabilities.prompts] == [
        "t\n\n",
        "N/A",
    ]
    assert world.backend.calls == []


async def test_who_wants_the_answer_in_words_gets_it(world: Any, play: Any) -> None:
    Probabilities(world.backend)
    world.backend.play = play(TextDelta(text="a"))
    params = ClassifyParams(text="t", labels=["a"], model="test/one:a", method="generate")
    assert (await judging.classify(world.engine, params, ORIGIN)).method == "generate"


async def test_likelihoods_that_cannot_be_read_are_refused(world: Any) -> None:
    params = ClassifyParams(text="t", labels=["a"], model="test/one:a", method="likelihood")
    with pytest.raises(CarError, match="probabilities cannot be read") as caught:
        await judging.classify(world.engine, params, ORIGIN)
    assert caught.value.kind == "unsupported_mode"


async def test_a_model_made_to_classify_goes_before_one_that_generates(
    world: Any, play: Any, tmp_path: Any
) -> None:
    with_models(world, tmp_path, ["generate"], ["classify", "generate"])
    world.backend.play = play(TextDelta(text="a"))
    params = ClassifyParams(text="t", labels=["a"])
    assert (await judging.classify(world.engine, params, ORIGIN)).model_used == "test/m1:a"


async def test_a_model_that_the_user_prefers_classifies_in_words_if_it_must(
    world: Any, play: Any, tmp_path: Any
) -> None:
    with_models(world, tmp_path, ["generate"], ["generate"])
    inputs = RoutingInputs(preferred=PreferredModels(classification="test/m1:a"))
    world.engine.routing._inputs = inputs
    world.backend.play = play(TextDelta(text="a"))
    params = ClassifyParams(text="t", labels=["a"])
    assert (await judging.classify(world.engine, params, ORIGIN)).model_used == "test/m1:a"
    asked = ClassifyParams(text="t", labels=["a"], model="test/m0:a")
    assert (await judging.classify(world.engine, asked, ORIGIN)).model_used == "test/m0:a"


async def test_a_text_does_not_make_judging_it_another_task(
    world: Any, play: Any, tmp_path: Any
) -> None:
    with_models(world, tmp_path, ["generate", "rerank"])
    world.backend.play = play(TextDelta(text="yes"))
    code = "Fix this function: ```def f(x): return x```"
    assert assess(code) == "code"
    await judging.classify(world.engine, ClassifyParams(text=code, labels=["yes"]), ORIGIN)
    await judging.rerank(world.engine, RerankParams(query=code, documents=[code]), ORIGIN)
    routes = [entry.data for entry in world.sink.entries if entry.type == "route"]
    # Each method tells its own task, and what it asks of the model is to classify.
    assert [data["task"] for data in routes] == ["classify", "classify", "rerank", "classify"]
    assert {data["model"] for data in routes} == {"test/m0:a"}


async def test_without_documents_no_model_is_needed(world: Any) -> None:
    result = await judging.rerank(world.engine, RerankParams(query="q", documents=[]), ORIGIN)
    assert (result.ranked, result.model_used) == ([], None)


async def test_documents_are_judged_in_words_where_nothing_else_is_there(
    world: Any, tmp_path: Any
) -> None:
    with_models(world, tmp_path, ["rerank", "generate"])

    async def play(call: Any) -> Any:
        question = msgspec.json.decode(call.raw_request)["messages"][1]["content"]
        await asyncio.sleep(0)
        yield TextDelta(
            text="Yes." if "right" in question else "no" if "wrong" in question else "?"
        )

    world.backend.play = play
    params = RerankParams(query="q", documents=["wrong", "unclear", "right"], top_n=2)
    result = await judging.rerank(world.engine, params, ORIGIN)
    assert [(each.index, each.score) for each in result.ranked] == [(2, 1.0), (1, 0.5)]
    assert result.model_used == "test/m0:a"
    request = msgspec.json.decode(world.backend.calls[0].raw_request)
    assert request["params"] == {"temperature": 0, "max_tokens": 3, "thinking": "off"}
    assert request["messages"] == [
        {
            "role": "system",
            "content": "Judge whether the Document meets the requirements based on the Query and"
            ' the Instruct provided. Note that the answer can only be "yes" or "no".',
        },
        {
            "role": "user",
            "content": "<Instruct>: Given a web search query, retrieve relevant passages that"
            " answer the query\n<Query>: q\n<Document>: wrong",
        },
    ]


async def test_one_document_that_fails_ends_all(world: Any, tmp_path: Any) -> None:
    with_models(world, tmp_path, ["rerank", "generate"])

    async def play(_: Any) -> Any:
        raise CarError("content_filtered", "no")
        yield

    world.backend.play = play
    params = RerankParams(query="q", documents=["a", "b", "c", "d", "e", "f"])
    with pytest.raises(CarError) as caught:
        await judging.rerank(world.engine, params, ORIGIN)
    assert caught.value.kind == "content_filtered"
    assert len(asyncio.all_tasks()) == 1


async def test_graded_scores_come_from_the_backend(world: Any, tmp_path: Any) -> None:
    with_models(world, tmp_path, ["rerank"])
    Probabilities(world.backend)
    params = RerankParams(query="q", documents=["four", "a"])
    result = await judging.rerank(world.engine, params, ORIGIN)
    assert [(each.index, each.score) for each in result.ranked] == [(1, 1.0), (0, 0.25)]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (None, "model not found: no reranker model available — pull a Qwen3-Reranker model first"),
        ("who", "model not found: rerank: unknown reranker model who"),
        ("test/one:a", "model one does not declare the Rerank capability"),
    ],
)
async def test_what_cannot_rerank_is_said(world: Any, model: str | None, message: str) -> None:
    params = RerankParams(query="q", documents=["d"], model=UNSET if model is None else model)
    with pytest.raises(CarError) as caught:
        await judging.rerank(world.engine, params, ORIGIN)
    assert caught.value.message == message


async def test_things_are_found_in_an_image(world: Any, play: Any, tmp_path: Any) -> None:
    with_models(world, tmp_path, ["generate", "grounding"])
    world.backend.play = play(TextDelta(text='[{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]'))
    asked = {"image": IMAGE, "prompt": "the cat"}
    params = msgspec.convert(asked, GroundParams)
    origin = Origin(1, "ground", msgspec.json.encode(asked))
    result = await judging.ground(world.engine, params, IMAGE, origin)
    assert [(each.label, each.x_max) for each in result.boxes] == [("cat", 3.0)]
    assert result.raw_text.startswith("[{")
    assert msgspec.json.decode(world.backend.calls[0].raw_request)["images"] == [IMAGE]


async def test_without_a_model_that_grounds_that_is_said(world: Any) -> None:
    params = msgspec.convert({"image": IMAGE, "prompt": "x"}, GroundParams)
    with pytest.raises(CarError, match="pull a Qwen"):
        await judging.ground(world.engine, params, IMAGE, ORIGIN)


def test_what_is_wrong_with_the_image_is_said_of_the_parameter_of_ground() -> None:
    error = CarError("invalid_request", "cut off - at `$.images[0]`", path="$.images[0]", model="m")
    told = judging.of_ground(error)
    assert (told.kind, told.detail) == ("invalid_request", "cut off - at `$.image`")
    assert told.extra == {"path": "$.image", "model": "m"}
    other = judging.of_ground(CarError("io_error", "no /x - at `$.images[0]`", path="/x"))
    assert (other.detail, other.extra) == ("no /x - at `$.image`", {"path": "/x"})
    assert judging.of_ground(CarError("timeout")).extra == {}
