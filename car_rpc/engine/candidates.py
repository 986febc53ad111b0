"""The models as a decision finds them: available or not, shut off or not, and what each has shown.

Everything here is looked at anew for each decision, and quickly: what a file, a key, a runner or a
breaker says now is what counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

from car_rpc.engine.breaker import Breakers
from car_rpc.engine.modality import Content, unsupported
from car_rpc.engine.ports import Availability, Backend, Clock
from car_rpc.errors import CarError
from car_rpc.registry.catalog import View
from car_rpc.router.ask import Ask
from car_rpc.router.scores import Candidate
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.outcomes import ModelProfile

Profiles: TypeAlias = Mapping[str, ModelProfile]

#: Why a model may not be asked, or ``None``.
Veto: TypeAlias = Callable[[ModelSchema], CarError | None]

_Served: TypeAlias = tuple[ModelSchema, Callable[[ModelSchema], Availability]]


class Candidates:
    """Makes candidates of models.

    Args:
        backend_of: The backend that serves a model.
        breakers: The models' circuit breakers.
        clock: Time, for them.
        profiles: What is known of each model now, by id.
        fits: Whether a model fits in memory.
    """

    def __init__(
        self,
        backend_of: Callable[[ModelSchema], Backend],
        breakers: Breakers,
        clock: Clock,
        profiles: Callable[[], Profiles],
        fits: Callable[[ModelSchema], bool],
    ) -> None:
        self._backend_of = backend_of
        self._breakers = breakers
        self._clock = clock
        self._profiles = profiles
        self._fits = fits
        #: Those that were asked for last, with what tells whether each is available.
        self._served: tuple[Sequence[ModelSchema], list[_Served]] = ((), [])

    def now(
        self, models: Sequence[ModelSchema], contents: Sequence[Content], veto: Veto | None = None
    ) -> list[Candidate]:
        """Models as they are now.

        Args:
            models: The models.
            contents: What the request holds beside text.
            veto: Why one may not be asked; ``None`` where all may.
        """
        if self._served[0] is not models:
            self._served = models, [(each, self._backend_of(each).availability) for each in models]
        profile_of, fits = self._profiles().get, self._fits
        shut_off = self._breakers.shut_off(self._clock.now_ms())
        candidates: list[Candidate] = []
        for model, availability in self._served[1]:
            refusal = None if veto is None else veto(model)
            if refusal is None and contents:
                refusal = unsupported(model, contents)
            model_id, available = model.id, availability(model).available
            candidates.append(
                Candidate(
                    model,
                    available,
                    not available or fits(model),
                    model_id in shut_off,
                    profile_of(model_id),
                    None if refusal is None else refusal.detail,
                )
            )
        return candidates

    def best_forms(
        self, view: View, contents: Sequence[Content], ask: Ask, veto: Veto | None = None
    ) -> list[Candidate]:
        """The models that generate, of which each answers in the form that runs best here.

        The other form of a model that can answer is left out, so that one slow answer, such as
        the first one, which loads the weights, never moves its requests to the slower engine.
        """
        candidates = self.now(view.ranked("generate"), contents, veto)
        better = view.better_forms
        worse = [
            n for n, each in enumerate(candidates) if each.available and each.model.id in better
        ]
        if not worse:
            return candidates
        forms = {form.id for n in worse for form in better[candidates[n].model.id]}
        able = {
            each.model.id for each in candidates if each.model.id in forms and _is_able(each, ask)
        }
        for n in worse:
            candidate = candidates[n]
            form = next((each.id for each in better[candidate.model.id] if each.id in able), None)
            if form is not None:
                reason = f"runs better on this machine as {form}"
                candidates[n] = candidate._replace(refusal=reason)
        return candidates

    def is_available(self, model: ModelSchema) -> bool:
        """Whether a model could serve a request now."""
        return self._backend_of(model).availability(model).available


def _is_able(candidate: Candidate, ask: Ask) -> bool:
    model, excluded = candidate.model, ask.intent.exclude_models
    return (
        candidate.available
        and not (candidate.breaker_open or candidate.refusal)
        and model.id not in excluded
        and model.name not in excluded
    )
