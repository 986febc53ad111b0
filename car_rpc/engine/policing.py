"""Policies at work: what the rules say of one request, and what follows from it.

The rules are those that hold when the request begins. They are asked about every model that may
answer it, before anything leaves the process.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import msgspec
from msgspec import UNSET

from car_rpc.engine.asked import Asked
from car_rpc.engine.metering import Meter, Metering, Work
from car_rpc.engine.ports import Approver, Clock, IdSource
from car_rpc.engine.recording import Recorder
from car_rpc.engine.spending import Bill
from car_rpc.errors import CarError
from car_rpc.policy.rules import NO_RULES, ContentRule, Limit, Rules, Verdict
from car_rpc.router.estimate import input_tokens, output_tokens
from car_rpc.spend.prices import Tokens, cost_nano_usd, is_free, to_nano
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import Cost, ModelSchema
from car_rpc.wire.policy import (
    ContentPart,
    PolicyApproveParams,
    PolicyApproveResult,
    PolicyRule,
    PolicySubject,
)

#: How long the app may take to approve, where the rule does not say, in milliseconds.
APPROVAL_DEADLINE_MS = 60_000


class NobodyToAsk:
    """An app that approves of nothing, as it cannot be asked."""

    async def approve(self, question: PolicyApproveParams) -> PolicyApproveResult:
        """Its answer."""
        reason = "the client did not announce the capability `approve`"
        return PolicyApproveResult(approved=False, reason=reason)


def no_rules() -> Rules:
    """Everything may happen."""
    return NO_RULES


class Policing:
    """The rules at work.

    Args:
        clock: Time.
        ids: Source of the ids of questions to the app.
        rules: The rules as they hold now.
        approver: Asks the app.
    """

    def __init__(
        self, clock: Clock, ids: IdSource, rules: Callable[[], Rules], approver: Approver
    ) -> None:
        self.clock = clock
        self.ids = ids
        self.rules = rules
        self.approver = approver

    def with_rules(self, rules: Callable[[], Rules]) -> Policing:
        """The same with other rules."""
        return Policing(self.clock, self.ids, rules, self.approver)

    def guard(
        self,
        method: str,
        recorder: Recorder | None = None,
        request: GenerateRequest | None = None,
        *,
        by_name: bool = False,
    ) -> Guard:
        """The rules over one request.

        Args:
            method: Its method.
            recorder: Its event log; ``None`` where nothing is to happen.
            request: What it asks of a model, where it is a ``generate``.
            by_name: Whether only rules that name methods are asked: it runs no model.
        """
        return Guard(self, method, recorder, request, by_name=by_name)


class Guard:
    """The rules over one request; made by :meth:`Policing.guard`."""

    def __init__(
        self,
        policing: Policing,
        method: str,
        recorder: Recorder | None,
        request: GenerateRequest | None,
        *,
        by_name: bool,
    ) -> None:
        self._policing = policing
        self._rules = policing.rules()
        self._method = method
        self._recorder = recorder
        self._request = request
        self._by_name = by_name
        self._started_ms = policing.clock.now_ms()
        self._admitted: set[str | None] = set()
        #: Tokens that the answer has taken, and that the attempt at hand may take.
        self._spent = 0
        self._allowed = 0

    def passes(self, model: ModelSchema | None) -> bool:
        """Whether a call with this model, or one without, is neither refused nor asked about."""
        verdict = self._verdict(model)
        return not (verdict.is_denied or verdict.approvals)

    def refusal(self, model: ModelSchema | None) -> CarError | None:
        """Why a model may not be asked, or without one why the method may not be called."""
        verdict = self._verdict(model)
        if verdict.is_denied and verdict.rule is not None:
            return denied(verdict.rule, self._subject(model))
        if model is None or self._request is None:
            return None
        for tool in self._request.tools or ():
            rule = self._rules.offered(self._method, model, tool.function.name)
            if rule is not None:
                return denied(rule, self._subject(model, tool=tool.function.name))
        return self._too_dear(model, verdict.caps.cost_usd, self._request)

    @property
    def veto(self) -> Callable[[ModelSchema], CarError | None] | None:
        """:meth:`refusal`, where there are rules that may refuse a model."""
        return self.refusal if self._rules.refuse_models else None

    async def admit(self, model: ModelSchema | None) -> None:
        """Let a model be asked, or without one the method be called.

        Raises:
            CarError: ``policy_denied``.
        """
        refusal = self.refusal(model)
        if refusal is not None:
            raise refusal
        model_id = None if model is None else model.id
        if model_id in self._admitted:
            return
        verdict = self._verdict(model)
        await self._approved(verdict, self._subject(model))
        self._admitted.add(model_id)

    @property
    def screens(self) -> bool:
        """Whether any rule might be about something of the answer."""
        return self._rules.screen_answers

    def content(self, model: ModelSchema | None) -> list[ContentRule]:
        """The rules about what a model answers."""
        return self._rules.content(self._method, model)

    def judges_calls(self, model: ModelSchema | None, tool: str) -> bool:
        """Whether any rule has to see what a model calls a tool with."""
        return self._rules.judges_calls(self._method, model, tool)

    def judged_call(
        self, model: ModelSchema | None, tool: str, arguments: dict[str, Any]
    ) -> Verdict | None:
        """What :meth:`approve_call` wants for a call, where the app has to be asked about it.

        Raises:
            CarError: ``policy_denied``.
        """
        verdict = self._rules.call(self._method, model, tool, arguments)
        subject = self._subject(model, tool=tool)
        if verdict.rule is not None and verdict.is_denied:
            raise denied(verdict.rule, subject)
        if verdict.approvals:
            return verdict
        if verdict.rule is not None:
            self._note(verdict.rule, "allowed", subject)
        return None

    async def approve_call(
        self, model: ModelSchema | None, tool: str, arguments: dict[str, Any], verdict: Verdict
    ) -> None:
        """Ask the app whether a tool may be called.

        Raises:
            CarError: ``policy_denied``.
        """
        await self._approved(verdict, self._subject(model, tool=tool), arguments=arguments)

    def refused_content(
        self, model: ModelSchema | None, rule: PolicyRule, part: ContentPart
    ) -> CarError:
        """The error of an answer that a rule refuses."""
        return denied(rule, self._subject(model, content=part))

    def note_replaced(
        self, model: ModelSchema | None, rule: PolicyRule, part: ContentPart, count: int
    ) -> None:
        """Note how often a rule replaced something in the answer."""
        self._note(rule, "redacted", self._subject(model, content=part), count=count)

    def capped(self, asked: Asked, model: ModelSchema) -> Asked:
        """What a model is asked, within the bounds of rules.

        Raises:
            CarError: ``policy_denied``: nothing is left of the tokens.
        """
        cap = self._verdict(model).caps.tokens
        asked = asked._replace(deadline_ms=self._deadline_ms(model, asked.deadline_ms))
        if cap is None:
            return asked
        self._allowed = self.tokens_left(model) or 0
        if self._allowed <= 0:
            raise denied(cap.rule, self._subject(model), "all its tokens are used up")
        wanted = asked.request.params.max_tokens
        if isinstance(wanted, int) and wanted <= self._allowed:
            self._allowed = wanted
            return asked
        self._note(cap.rule, "capped", self._subject(model), max_tokens=self._allowed)
        return asked.with_params(max_tokens=self._allowed)

    @asynccontextmanager
    async def metered(
        self, metering: Metering, work: Work, bill: Bill, recorder: Recorder
    ) -> AsyncGenerator[Meter]:
        """As :meth:`Metering.attempt`, within the bounds of rules.

        Raises:
            CarError: As there; ``policy_denied`` for what would cost too much, ``timeout`` when the
                request's time is up by a rule.
        """
        work = work._replace(
            deadline_ms=self._deadline_ms(work.model, work.deadline_ms),
            afford=partial(self._afford, work.model),
        )
        async with self._limited(work.model), metering.attempt(work, bill, recorder) as meter:
            try:
                yield meter
            finally:
                tokens = meter.count("completion_tokens")
                # Where nobody says how many, it is all that were allowed.
                self._spent += tokens if tokens is not None else self._allowed * meter.streamed

    def _deadline_ms(self, model: ModelSchema, otherwise: float | None) -> float | None:
        """When the time of the request is up, by the clock; by its own limit or by a rule's."""
        cap = self._verdict(model).caps.time_ms
        if cap is None:
            return otherwise
        ends_ms = self._started_ms + cap.value
        return ends_ms if otherwise is None else min(ends_ms, otherwise)

    def tokens_left(self, model: ModelSchema) -> int | None:
        """How many more tokens the answer may have; ``None`` for any number."""
        cap = self._verdict(model).caps.tokens
        return None if cap is None else int(cap.value) - self._spent

    def _afford(self, model: ModelSchema, nano_usd: int | None) -> None:
        """Let a request cost so much, all attempts together; ``None`` when nobody knows."""
        refusal = self._beyond(model, self._verdict(model).caps.cost_usd, nano_usd)
        if refusal is not None:
            raise refusal

    @asynccontextmanager
    async def _limited(self, model: ModelSchema) -> AsyncGenerator[None]:
        """Stop what happens inside when the request's time is up."""
        cap = self._verdict(model).caps.time_ms
        if cap is None:
            yield
            return
        left_ms = self._started_ms + cap.value - self._policing.clock.now_ms()
        limit = asyncio.timeout(max(0.0, left_ms / 1000))
        try:
            async with limit:
                yield
        except TimeoutError:
            if not limit.expired():
                raise
            self._note(cap.rule, "capped", self._subject(model), max_time_ms=cap.value)
            detail = f"rule {cap.rule.id!r} allows a request {cap.value:g} ms"
            raise CarError(
                "timeout", detail, retryable=False, cause="deadline", rule_id=cap.rule.id
            ) from None

    async def _approved(self, verdict: Verdict, subject: PolicySubject, **more: Any) -> None:
        """Ask the app where rules want that, and note what let something pass."""
        for rule in verdict.approvals:
            question = PolicyApproveParams(
                approval_id=self._policing.ids.new("ap_"),
                trace_id="" if self._recorder is None else self._recorder.trace_id,
                rule_id=rule.id,
                reason=rule.reason,
                subject=msgspec.structs.replace(subject, **more),
                deadline_ms=rule.deadline_ms or APPROVAL_DEADLINE_MS,
            )
            answer = await self._policing.approver.approve(question)
            if not answer.approved:
                raise denied(rule, subject, answer.reason or "the app did not approve")
            self._note(rule, "approved", subject, **_said(answer.reason))
        if verdict.rule is not None:
            self._note(verdict.rule, "allowed", subject)

    def _too_dear(
        self, model: ModelSchema, cap: Limit | None, request: GenerateRequest
    ) -> CarError | None:
        if cap is None or is_free(model):
            return None
        left = self.tokens_left(model)
        answer = output_tokens(request)
        tokens = Tokens(input_tokens(request), answer if left is None else min(left, answer))
        known = cost_nano_usd(model.cost, tokens) if isinstance(model.cost, Cost) else None
        return self._beyond(model, cap, known)

    def _beyond(
        self, model: ModelSchema, cap: Limit | None, nano_usd: int | None
    ) -> CarError | None:
        if cap is None or (nano_usd is not None and nano_usd <= to_nano(cap.value)):
            return None
        why = "its price is not known" if nano_usd is None else f"it may cost ${nano_usd / 1e9:g}"
        detail = f"{why}, and a request may cost ${cap.value:g}"
        return denied(cap.rule, self._subject(model), detail)

    def _verdict(self, model: ModelSchema | None) -> Verdict:
        return self._rules.request(self._method, model, by_name=self._by_name)

    def _subject(self, model: ModelSchema | None, **more: Any) -> PolicySubject:
        model_id = UNSET if model is None else model.id
        return PolicySubject(method=self._method, model=model_id, **more)

    def _note(self, rule: PolicyRule, decision: str, subject: PolicySubject, **more: Any) -> None:
        if self._recorder is not None:
            self._recorder.note(
                "policy",
                rule_id=rule.id,
                action=rule.action,
                decision=decision,
                subject=subject,
                **{**_said(rule.reason), **more},
            )


def denied(rule: PolicyRule, subject: PolicySubject, why: str = "") -> CarError:
    """The error of what a rule refuses, with what it says more of why."""
    what = subject.model if isinstance(subject.model, str) else f"`{subject.method}`"
    if isinstance(subject.tool, str):
        what = f"the tool {subject.tool!r}"
    if isinstance(subject.content, str):
        what = f"the {subject.content.replace('_', ' ')} of {what}"
    reasons = [each for each in (rule.reason, why) if each]
    said = ": ".join([f"rule {rule.id!r} refuses {what}", *map(str, reasons)])
    return CarError(
        "policy_denied",
        said,
        rule_id=rule.id,
        action=rule.action,
        reason="; ".join(map(str, reasons)) or said,
        subject=msgspec.to_builtins(subject),
    )


def refused(failure: CarError) -> dict[str, Any] | None:
    """What the event log keeps of a refusal by a rule; ``None`` for another failure."""
    if failure.kind != "policy_denied" or "rule_id" not in failure.extra:
        return None
    names = ("rule_id", "action", "subject", "reason")
    return {"decision": "denied", **{name: failure.extra[name] for name in names}}


def _said(reason: object) -> dict[str, object]:
    return {"reason": reason} if isinstance(reason, str) else {}
