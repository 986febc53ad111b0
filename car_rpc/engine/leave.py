"""Leave of their circuit breakers to ask models, and what the event log tells of that."""

from __future__ import annotations

from car_rpc.engine.breaker import Breakers, Permit
from car_rpc.engine.ports import Clock
from car_rpc.engine.recording import Recorder
from car_rpc.errors import CarError
from car_rpc.wire.models import ModelSchema


class Leave:
    """What one request has to do with circuit breakers.

    Args:
        breakers: Those of the models.
        clock: Time.
        recorder: The request's event log.
        insists: Whether models are asked whatever is known of them.
    """

    def __init__(
        self, breakers: Breakers, clock: Clock, recorder: Recorder, *, insists: bool
    ) -> None:
        self._breakers = breakers
        self._clock = clock
        self._recorder = recorder
        self._insists = insists

    def permit(self, model: ModelSchema) -> Permit | None:
        """Leave to ask a model, if there is any."""
        breaker = self._breakers.of(model.id)
        before = breaker.state
        permit = breaker.admit(self._clock.now_ms())
        self._note(model, before)
        if permit is None and self._insists:
            return breaker.bypass()
        if permit is None:
            self._recorder.aside("skipped", model=model.id, breaker=breaker.state)
        return permit

    def judge(self, model: ModelSchema, permit: Permit, failure: CarError | None) -> None:
        """Tell a model's breaker how an attempt ended, and the log what came of it."""
        before = self._breakers.of(model.id).state
        if failure is None:
            permit.succeeded()
        else:
            permit.failed(failure, self._clock.now_ms())
        self._note(model, before)

    def _note(self, model: ModelSchema, before: str) -> None:
        state = self._breakers.of(model.id).state
        if state != before:
            self._recorder.aside("breaker", model=model.id, state=state)
