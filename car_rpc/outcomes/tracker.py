"""What the process learns of its models, shared with all others on the same state directory."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress

from car_rpc.errors import CarError, invalid_params
from car_rpc.outcomes.priors import LoadedPrior
from car_rpc.outcomes.profiles import AttemptEnd, counts, observed, quality_of, taken_over
from car_rpc.outcomes.signals import Sign
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.wire.outcomes import (
    ImportedProfile,
    ModelProfile,
    OutcomesReportParams,
    OutcomesReportResult,
    PendingOutcome,
    ScoreboardRow,
)

#: How long an attempt that has ended waits for others, in seconds. Meanwhile its request is
#: answered: the event log, which waits for the same database, goes first.
GATHER_S = 0.05

logger = logging.getLogger(__name__)


class Tracker:
    """Profiles and receipts. Belongs to one event loop, which it never holds up.

    What an attempt teaches counts here at once. Attempts that end within :data:`GATHER_S` share the
    transaction that tells the others. A process that is killed loses those that ended within the
    last tenth of a second, and none of them in part.

    Args:
        store: The rows.
        priors: What is thought of models before they were used, by id.
        now: The time, in RFC 3339 with milliseconds in UTC.
    """

    def __init__(
        self, store: OutcomeStore, priors: Mapping[str, LoadedPrior], now: Callable[[], str]
    ) -> None:
        self.priors = priors
        self._store = store
        self._now = now
        self._profiles = {model_id: each.prior.profile for model_id, each in priors.items()}
        self._revision = 0
        self._waiting: list[AttemptEnd] = []
        self._signs: list[Sign] = []
        self._writing: asyncio.Task[None] | None = None
        self._is_wanted = asyncio.Event()

    def attempt_ended(self, end: AttemptEnd) -> None:
        """Learn from an attempt. Neither waits nor fails.

        What says nothing of the model (:func:`car_rpc.outcomes.profiles.counts`), such as a
        cancel or a refusal, counts neither way.
        """
        if not counts(end):
            return
        known = self._profiles.get(end.model_id) or ModelProfile(model_id=end.model_id)
        self._profiles[end.model_id] = observed(known, end, self._now())
        self._waiting.append(end)
        self._write_soon()

    def implied(self, sign: Sign) -> None:
        """Learn from what a request says of an earlier answer, soon. Neither waits nor fails.

        It moves the profile, once for each answer that nobody has judged; the scoreboard counts
        only what was said in so many words.
        """
        self._signs.append(sign)
        self._write_soon()

    def profiles(self) -> Mapping[str, ModelProfile]:
        """What is known of each model now, priors included. Quick; meant for one decision.

        Raises:
            CarError: ``io_error``.
        """
        changed, self._revision = self._store.changed_profiles(self._revision)
        self._profiles.update({profile.model_id: profile for profile in changed})
        return self._profiles

    def profile_of(self, model_id: str) -> ModelProfile | None:
        """What is known of one model now; ``None`` for nothing.

        Raises:
            CarError: ``io_error``.
        """
        return self.profiles().get(model_id)

    async def up_to_date(self) -> Mapping[str, ModelProfile]:
        """As :meth:`profiles`, with all attempts that have ended here.

        Raises:
            CarError: ``io_error``.
        """
        await self._written()
        return self.profiles()

    async def report(self, params: OutcomesReportParams) -> OutcomesReportResult:
        """Take the app's verdict on an answer. An answer has one; the same again changes nothing.

        Raises:
            CarError: ``invalid_params`` without a verdict, ``not_found`` for a request without
                an answer that is known, ``conflict`` if it was judged otherwise before.
        """
        quality = params.quality
        if not isinstance(quality, float):
            if not isinstance(params.outcome, str):
                raise invalid_params("one of `outcome` and `quality` is required", "$.outcome")
            quality = float(params.outcome == "accepted")
        await self._written()
        judge = self._store.judge
        (verdict,) = await asyncio.to_thread(judge, [(params.trace_id, quality)], self._now())
        if verdict is None:
            raise CarError(
                "not_found",
                f"{params.trace_id!r} is no request with an answer among the latest",
                trace_id=params.trace_id,
            )
        if verdict.quality != quality:
            raise CarError(
                "conflict",
                f"{params.trace_id} was judged before, with a quality of {verdict.quality}",
                trace_id=params.trace_id,
            )
        return OutcomesReportResult(
            model_id=verdict.model_id,
            task=verdict.task,
            quality=verdict.quality,
            recorded=verdict.recorded,
        )

    async def resolve(self, outcomes: Sequence[PendingOutcome]) -> int:
        """Take verdicts that were found out later; returns how many counted.

        Raises:
            CarError: ``io_error``; then none counted.
        """
        qualities = [
            (each.trace_id, quality_of(success=each.success, confidence=each.confidence))
            for each in outcomes
        ]
        await self._written()
        verdicts = await asyncio.to_thread(self._store.judge, qualities, self._now())
        return sum(verdict is not None and verdict.recorded for verdict in verdicts)

    async def export(self) -> list[ModelProfile]:
        """The profiles of all models that were observed, by id.

        Raises:
            CarError: ``io_error``.
        """
        profiles = await self.up_to_date()
        return [profile for _, profile in sorted(profiles.items()) if profile.total_calls]

    async def take_over(self, profiles: Sequence[ImportedProfile]) -> None:
        """Put profiles from elsewhere into the place of what was observed here.

        Raises:
            CarError: ``invalid_params`` for one whose counts contradict each other.
        """
        kept = [taken_over(each, f"$.profiles[{n}]") for n, each in enumerate(profiles)]
        await self._written()
        await asyncio.to_thread(self._store.replace, kept)

    async def scoreboard(self, task: str | None, since: str | None) -> list[ScoreboardRow]:
        """What the models achieved, and for how much, by id.

        Args:
            task: Only attempts at this task.
            since: Only attempts that ended at or after this time, in the form of ``now``.

        Raises:
            CarError: ``io_error``.
        """
        await self._written()
        return await asyncio.to_thread(self._store.scoreboard, task, since)

    async def close(self, timeout_s: float) -> None:
        """Write what waits, for so long at most, and close the database."""
        if self._writing is not None:
            self._is_wanted.set()
            await asyncio.wait([self._writing], timeout=timeout_s)
        self._store.close()

    async def _written(self) -> None:
        while self._writing is not None:
            self._is_wanted.set()
            await asyncio.shield(self._writing)

    def _write_soon(self) -> None:
        if self._writing is None:
            self._writing = asyncio.create_task(self._write())

    async def _write(self) -> None:
        try:
            while self._waiting or self._signs:
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._is_wanted.wait(), GATHER_S)
                ends, self._waiting = self._waiting, []
                signs, self._signs = self._signs, []
                try:
                    if ends:
                        await asyncio.to_thread(self._store.record, ends, self._first, self._now())
                    if signs:
                        await asyncio.to_thread(self._store.imply, signs, self._now())
                except CarError as error:
                    logger.warning("the outcomes of %d attempts are lost: %s", len(ends), error)
        finally:
            self._writing = None
            self._is_wanted.clear()

    def _first(self, model_id: str) -> ModelProfile:
        prior = self.priors.get(model_id)
        return ModelProfile(model_id=model_id) if prior is None else prior.prior.profile
