"""The tasks that judge: ``classify``, ``rerank`` and ``ground``.

Where a model's probabilities can be read they are; any other model is asked in words, which runs
as a ``generate`` of its own, with everything that belongs to one.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.engine.boxes import boxes_of
from car_rpc.engine.candidates import Veto
from car_rpc.engine.engine import Engine
from car_rpc.engine.generation import Origin
from car_rpc.engine.metering import Meter
from car_rpc.engine.recording import Recorder
from car_rpc.engine.routing import Choice
from car_rpc.engine.screening import screened
from car_rpc.engine.verdicts import (
    label_scores,
    likelihood_scores,
    ranked,
    undecided,
    verdict,
)
from car_rpc.engine.whole import Whole
from car_rpc.errors import CarError, unsupported_mode
from car_rpc.wire import judging
from car_rpc.wire.content import Message
from car_rpc.wire.inference import GenerateRequest, InferenceResult
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.tasks import (
    ClassifyParams,
    ClassifyResult,
    GroundParams,
    GroundResult,
    RerankParams,
    RerankResult,
)

logger = logging.getLogger(__name__)

#: A text without content (Zhao et al., 2021): what a model answers to it is its bias.
_NO_CONTENT = "N/A"

#: Documents that a model is asked about at once.
_AT_ONCE = 4

#: Both ask for one of several words: what a text is about must not make it a task of its own,
#: because profiles are kept by task.
_INTENT = {"task": "classify"}

_CLASSIFY_PARAMS = {"temperature": 0, "max_tokens": 32, "thinking": "off"}
_RERANK_PARAMS = {"temperature": 0, "max_tokens": 3, "thinking": "off"}


async def classify(engine: Engine, params: ClassifyParams, origin: Origin) -> ClassifyResult:
    """Say which labels fit a text.

    Raises:
        CarError: As :meth:`Engine.generate`; ``unsupported_mode`` when likelihoods were asked for
            and the model gives none.
    """

    async def work(recorder: Recorder) -> ClassifyResult:
        guard = engine.policing.guard(origin.method, recorder)
        choice = classifier(engine, params.model, guard.veto)
        recorder.note("route", **choice.logged("classify"))
        whole = Whole(engine, recorder, guard, "classify")

        async def ask(model: ModelSchema, is_last: bool) -> ClassifyResult:
            judges = engine.backend_of(model).judges(model)
            if params.method == "likelihood" and not judges:
                reason = "this model's probabilities cannot be read; ask for `auto` or `generate`"
                tag = str(model.source.__struct_config__.tag)
                raise unsupported_mode("likelihood", tag, reason)
            if not judges or params.method == "generate":
                words = _Words(engine, model, origin, is_last=is_last)
                return await _in_words(words, params)

            async def once(_: Meter) -> ClassifyResult:
                return await _by_likelihood(engine, model, params)

            return await whole.answer(model, once, is_last=is_last)

        return await whole.first(choice.models, ask)

    return await engine.traced(origin, work)


def classifier(engine: Engine, wanted: str | msgspec.UnsetType, veto: Veto | None = None) -> Choice:
    """The model that classifies, and why it.

    Raises:
        CarError: No model can.
    """
    try:
        return engine.routing.choice(wanted, "classify", veto)
    except CarError as error:
        if error.kind not in ("model_not_found", "unsupported_mode"):
            raise
        # Any model that answers can be asked for a category.
        asked = engine.routing.preferred("classify") if wanted is UNSET else wanted
        models, reason = engine.routing.choice(asked, "generate", veto)
        return Choice(models, f"asked in words: {reason}")


def classify_prompt(text: str, labels: list[str]) -> str:
    """What a model is asked; the executor contract's words."""
    numbered = "\n".join(f"{number}. {label}" for number, label in enumerate(labels, start=1))
    return (
        f"Classify the following text into one of these categories:\n{numbered}\n\n"
        f"Text: {text}\n\nRespond with ONLY the category name, nothing else."
    )


async def rerank(engine: Engine, params: RerankParams, origin: Origin) -> RerankResult:
    """Order documents by how well they fit a query.

    Raises:
        CarError: ``model_not_found``, ``unsupported_mode``, or as :meth:`Engine.generate`.
    """

    async def work(recorder: Recorder) -> RerankResult:
        if not params.documents:
            return RerankResult(ranked=[], model_used=None)
        guard = engine.policing.guard(origin.method, recorder)
        choice = _reranker(engine, params, guard.veto)
        recorder.note("route", **choice.logged("rerank"))
        whole = Whole(engine, recorder, guard, "rerank")

        async def ask(model: ModelSchema, is_last: bool) -> RerankResult:
            backend = engine.backend_of(model)

            async def once(_: Meter) -> list[float]:
                return await backend.rank(model, params.query, params.documents, params.instruction)

            if backend.judges(model):
                scores = await whole.answer(model, once, is_last=is_last)
            else:
                scores = await _verdicts(_Words(engine, model, origin, is_last=is_last), params)
            most = params.top_n if isinstance(params.top_n, int) else None
            return RerankResult(ranked=ranked(params.documents, scores, most), model_used=model.id)

        return await whole.first(choice.models, ask)

    return await engine.traced(origin, work)


async def ground(
    engine: Engine, params: GroundParams, image: dict[str, Any], origin: Origin
) -> GroundResult:
    """Find things in an image.

    Args:
        engine: The engine.
        params: What was asked.
        image: The client's own JSON of the image.
        origin: Where it came from.

    Raises:
        CarError: As :meth:`Engine.generate`.
    """

    async def work(recorder: Recorder) -> GroundResult:
        guard = engine.policing.guard(origin.method, recorder)
        choice = engine.routing.choice(params.model, "grounding", guard.veto)
        recorder.note("route", **choice.logged("ground"))

        async def ask(model: ModelSchema, is_last: bool) -> GroundResult:
            words = _Words(engine, model, origin, is_last=is_last)
            try:
                answer = await words.ask(prompt=params.prompt, images=[image])
            except CarError as error:
                raise of_ground(error) from error
            text = screened(guard, model, answer.text)
            return GroundResult(
                boxes=boxes_of(model, text), raw_text=text, model_used=answer.model_used
            )

        return await Whole(engine, recorder, guard, "ground").first(choice.models, ask)

    return await engine.traced(origin, work)


def of_ground(error: CarError) -> CarError:
    """What is wrong with the image, which is the only one of a question, as ``ground`` calls it."""
    there, here = "images[0]", "image"
    path = {"path": f"$.{here}"} if error.extra.get("path") == f"$.{there}" else {}
    return CarError(error.kind, error.detail.replace(there, here), **{**error.extra, **path})


async def _by_likelihood(
    engine: Engine, model: ModelSchema, params: ClassifyParams
) -> ClassifyResult:
    backend = engine.backend_of(model)

    async def likelihoods(text: str) -> list[float]:
        prompt = Message(role="user", content=classify_prompt(text, params.labels))
        return await backend.score(model, [prompt], params.labels)

    given_text = await likelihoods(params.text)
    given_nothing = await likelihoods(_NO_CONTENT)
    return ClassifyResult(
        results=likelihood_scores(params.labels, given_text, given_nothing),
        model_used=model.id,
        method="likelihood",
    )


class _Words:
    """Asks one model in words, each time as a ``generate`` of its own.

    Args:
        engine: The engine.
        model: The model.
        origin: Where the request came from.
        is_last: Whether no other model is left.
    """

    def __init__(
        self, engine: Engine, model: ModelSchema, origin: Origin, *, is_last: bool
    ) -> None:
        self.model = model
        self._engine = engine
        self._origin = origin
        self._is_last = is_last

    async def ask(self, **request: Any) -> InferenceResult:
        """Let it answer a request."""
        raw = msgspec.json.encode({"model": self.model.id, **request})
        asked = msgspec.json.decode(raw, type=GenerateRequest)
        origin = Origin(self._origin.request_id, "generate", raw)
        return await self._engine.generate(asked, origin, None, others_wait=not self._is_last)


async def _in_words(words: _Words, params: ClassifyParams) -> ClassifyResult:
    answer = await words.ask(
        prompt=classify_prompt(params.text, params.labels), intent=_INTENT, params=_CLASSIFY_PARAMS
    )
    return ClassifyResult(
        results=label_scores(answer.text, params.labels),
        model_used=answer.model_used,
        method="generate",
    )


async def _verdicts(words: _Words, params: RerankParams) -> list[float]:
    free = asyncio.Semaphore(_AT_ONCE)

    async def judge(index: int, document: str) -> float:
        question = judging.question(params.query, document, params.instruction)
        messages = [
            {"role": "system", "content": judging.SYSTEM},
            {"role": "user", "content": question},
        ]
        async with free:
            answer = await words.ask(messages=messages, intent=_INTENT, params=_RERANK_PARAMS)
        score = verdict(answer.text)
        if score is None:
            model_id = words.model.id
            logger.warning("%s said neither yes nor no to document %d", model_id, index)
        return undecided(score)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(judge(index, document))
                for index, document in enumerate(params.documents)
            ]
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None
    return [task.result() for task in tasks]


def _reranker(engine: Engine, params: RerankParams, veto: Veto | None) -> Choice:
    try:
        return engine.routing.choice(params.model, "rerank", veto)
    except CarError as error:
        if error.kind != "model_not_found" or not isinstance(params.model, str):
            raise
        missing = f"rerank: unknown reranker model {params.model}"
        raise CarError("model_not_found", missing, model=params.model) from None
