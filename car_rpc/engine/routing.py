"""The router amid the world: models as they are now, the configuration, pools and preferences."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

from msgspec import UNSET, Struct, UnsetType

from car_rpc.engine.breaker import Breakers
from car_rpc.engine.candidates import Candidates, Profiles, Veto
from car_rpc.engine.modality import Content, contents_of, unsupported
from car_rpc.engine.ports import Backend, Clock
from car_rpc.engine.premises import Premises, Way
from car_rpc.errors import CarError, invalid_params
from car_rpc.registry.catalog import require_capability
from car_rpc.registry.equivalents import base_name
from car_rpc.registry.registry import Registry
from car_rpc.router.ask import Ask, ask_of
from car_rpc.router.complexity import assess
from car_rpc.router.filters import unfit
from car_rpc.router.pool import POOL_PREFIX, Pool
from car_rpc.router.router import nobody
from car_rpc.router.scores import Candidate, Known
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import Capability, ModelSchema
from car_rpc.wire.routing import RouteDecision, RoutingConfig
from car_rpc.wire.script import last_user_text

#: Most candidates that the event log keeps of a decision; `models.route` tells all.
MAX_LOGGED_CANDIDATES = 16


class PreferredModels(Struct, frozen=True, kw_only=True):
    """Models that the user prefers, by id or name; a request that names one goes before.

    Attributes:
        generation: For ``generate``; may be a pool.
        embedding: For ``embed``.
        classification: For ``classify``.
    """

    generation: str | None = None
    embedding: str | None = None
    classification: str | None = None

    def of(self, capability: Capability) -> str | None:
        """The preferred model with a capability."""
        match capability:
            case "generate":
                return self.generation
            case "embed":
                return self.embedding
            case "classify":
                return self.classification
            case _:
                return None


def nothing_known() -> Profiles:
    """No model has been observed."""
    return {}


def fits_anyway(_model: ModelSchema) -> bool:
    """No memory is too small, as far as is known."""
    return True


class RoutingInputs(NamedTuple):
    """What choosing a model depends on, beside the models themselves.

    Attributes:
        config: The configuration as it is now.
        preferred: The models that the user prefers.
        profiles: What is known of each model now, by id.
        fits: Whether a model fits in memory.
    """

    config: Callable[[], RoutingConfig] = RoutingConfig
    preferred: PreferredModels = PreferredModels()
    profiles: Callable[[], Profiles] = nothing_known
    fits: Callable[[ModelSchema], bool] = fits_anyway


class Choice(NamedTuple):
    """Models for work that is not routed, the one to be asked first, and why that, for people."""

    models: Sequence[ModelSchema]
    reason: str

    @property
    def model(self) -> ModelSchema:
        """The one to be asked first."""
        return self.models[0]

    def logged(self, task: str) -> dict[str, object]:
        """The choice as the event log keeps it."""
        chosen, *others = (model.id for model in self.models)
        return {"model": chosen, "task": task, "reason": self.reason, "fallbacks": others}


class Route(NamedTuple):
    """Which models may answer, best first, and why.

    Attributes:
        models: The models.
        decision: The first one, with all reasons.
        premises: What it rests on; the pool that the models belong to, where the client named one.
    """

    models: list[ModelSchema]
    decision: RouteDecision
    premises: Premises

    def began(self) -> None:
        """The request goes to the first of the models now."""
        if self.premises.way is not None:
            pool, key = self.premises.way
            pool.begin(key, self.models[0].id)

    def moves(self, model: ModelSchema, failure: CarError, *, breaker_open: bool) -> bool:
        """Whether another model may be asked after one failed."""
        if self.premises.way is None:
            return True
        pool, key = self.premises.way
        return pool.moves(key, model.id, failure, breaker_open=breaker_open)

    def answered(self, model: ModelSchema) -> None:
        """A model answered."""
        if self.premises.way is not None:
            pool, key = self.premises.way
            pool.answered(key, model.id)


class Routing:
    """Chooses models.

    Args:
        registry: The models.
        backend_of: The backend that serves a model.
        breakers: The models' circuit breakers.
        clock: Time, for them.
        inputs: What else the choice depends on.
    """

    def __init__(
        self,
        registry: Registry,
        backend_of: Callable[[ModelSchema], Backend],
        breakers: Breakers,
        clock: Clock,
        inputs: RoutingInputs,
    ) -> None:
        self._registry = registry
        self._candidates = Candidates(backend_of, breakers, clock, inputs.profiles, inputs.fits)
        self._known = Known()
        self._breakers = breakers
        self._clock = clock
        self._inputs = inputs
        self._pools: dict[str, Pool] = {}

    def generate(
        self,
        request: GenerateRequest,
        trace_id: str,
        veto: Veto | None = None,
        *,
        shown: int | None = MAX_LOGGED_CANDIDATES,
    ) -> Route:
        """Choose for a ``generate`` request.

        Args:
            request: The request.
            trace_id: Its trace, from which come the random numbers.
            veto: Why a model may not be asked; ``None`` where all may.
            shown: Most candidates that the decision tells of; ``None`` for all.

        Raises:
            CarError: No model can answer, or the request says nothing to be answered; the veto,
                where it is against all that could.
        """
        if request.prompt is UNSET and not request.messages:
            raise invalid_params("one of `prompt` and `messages` is required", "$.prompt")
        config = self._inputs.config()
        ask = asked_of(request)
        contents = contents_of(request)
        wanted, reason = self._inputs.preferred.generation, "preferred generation model override"
        if isinstance(request.model, str):
            wanted, reason = request.model, "explicit model"
        if wanted is None:
            view = self._registry.now()
            candidates = self._candidates.best_forms(view, contents, ask, veto)
            try:
                return self._decided(Premises(candidates, config), ask, trace_id, shown)
            except CarError as error:
                models = view.ranked("generate")
                vetoed = self._vetoed(models, ask.needs, veto)
                raise vetoed or self._not_understood(models, contents) or error from None
        pool = self._pool(wanted, config)
        if pool is not None:
            conversation_id = request.conversation_id or None
            key = pool.key(conversation_id, trace_id)
            premises = self._pooled(Way(pool, key), ask, contents, veto)
            return self._decided(premises, ask, trace_id, shown)
        model = require_capability(
            self._named(wanted, preferred=request.model is UNSET), "generate"
        )
        refusal = (veto and veto(model)) or unsupported(model, contents)
        if refusal is not None:
            raise refusal
        premises = Premises(self._candidates.now([model], contents), config, reason)
        return self._decided(premises, ask, trace_id, shown)

    def choice(
        self, wanted: str | UnsetType, capability: Capability, veto: Veto | None = None
    ) -> Choice:
        """The models for other work: the one asked for, the preferred one, else the available ones.

        It does not change with what is learned. To embed, no other model stands in than the same
        one elsewhere or in another format: vectors of two models do not go together.

        Raises:
            CarError: No model can do it; the veto, where it is against all that could.
        """
        named = self.preferred(capability) if wanted is UNSET else wanted
        if isinstance(named, str):
            model = self._named(named, preferred=wanted is UNSET)
            reason = f"preferred model for {capability}" if wanted is UNSET else "explicit model"
            refusal = veto and veto(require_capability(model, capability))
            if refusal:
                raise refusal
            return Choice([require_capability(model, capability)], reason)

        def may(model: ModelSchema) -> bool:
            return self._candidates.is_available(model) and (veto is None or veto(model) is None)

        try:
            able = self._registry.available_for(capability, may)
        except CarError as error:
            vetoed = self._vetoed(self._registry.all(), [capability], veto)
            raise vetoed or error from None
        reason = f"the first of {len(able)} available models for {capability}"
        if len(able) == 1:
            reason = f"the only available model for {capability}"
        if capability == "embed":
            name = base_name(able[0].name)
            able = [model for model in able if base_name(model.name) == name]
        return Choice(able, reason)

    def preferred(self, capability: Capability) -> str | UnsetType:
        """The model that the user prefers for other work; a pool is only for conversations."""
        name = self._inputs.preferred.of(capability)
        return UNSET if name is None or name.startswith(POOL_PREFIX) else name

    def moves(self, chosen: Route, model: ModelSchema, failure: CarError) -> bool:
        """Whether another model may be asked after one failed."""
        return chosen.moves(model, failure, breaker_open=self._shut_off(model.id))

    def _named(self, name: str, *, preferred: bool) -> ModelSchema:
        try:
            return self._registry.find(name)
        except CarError as error:
            if not preferred:
                raise
            # Who sent the request never named it.
            detail = f"{error.detail} (it is named under `preferred` in the configuration)"
            raise CarError(error.kind, detail, **error.extra) from None

    def _vetoed(
        self, models: Iterable[ModelSchema], needs: Iterable[str], veto: Veto | None
    ) -> CarError | None:
        """The veto against the first model that otherwise could do it."""
        if veto is None:
            return None
        is_available = self._candidates.is_available
        able = (m for m in models if is_available(m) and {*needs} <= {*m.capabilities})
        return next(filter(None, map(veto, able)), None)

    def _not_understood(
        self, models: Iterable[ModelSchema], contents: list[Content]
    ) -> CarError | None:
        """What of the content the first available model does not understand."""
        able = filter(self._candidates.is_available, models)
        return next(filter(None, (unsupported(model, contents) for model in able)), None)

    def _decided(self, premises: Premises, ask: Ask, trace_id: str, shown: int | None) -> Route:
        models, decision = premises.decided(ask, trace_id, self._known, shown)
        return Route(models, decision, premises)

    def _shut_off(self, model_id: str) -> bool:
        return not self._breakers.of(model_id).available(self._clock.now_ms())

    def _pool(self, wanted: str, config: RoutingConfig) -> Pool | None:
        """The pool of this name, anew once it was configured otherwise.

        Raises:
            CarError: ``model_not_found`` when there is none.
        """
        if not wanted.startswith(POOL_PREFIX):
            return None
        name = wanted.removeprefix(POOL_PREFIX)
        spec = config.pools.get(name)
        if spec is None:
            known = ", ".join(map(repr, config.pools)) or "none"
            raise CarError(
                "model_not_found",
                f"{wanted!r} is no pool; there are {known}, and `routing.set_config` adds one",
                model=wanted,
            )
        pool = self._pools.get(name)
        if pool is None or pool.spec != spec:
            pool = self._pools[name] = Pool(name, spec)
        return pool

    def _pooled(self, way: Way, ask: Ask, contents: list[Content], veto: Veto | None) -> Premises:
        pool, key = way
        members = sorted(member.model_id for member in pool.spec.members)
        able: dict[str, Candidate] = {}
        refused = dict.fromkeys(members, "not registered")
        named = [model for model in self._registry.all() if model.id in refused]
        for candidate in self._candidates.now(named, contents, veto):
            reason = unfit(candidate, ask.needs)
            if reason is None:
                able[candidate.model.id] = candidate
            refused[candidate.model.id] = reason or "in quarantine"
        shut_off = {each for each, candidate in able.items() if candidate.breaker_open}
        if not any(each in able for each in pool.order(key, shut_off.__contains__)):
            raise self._vetoed(named, ask.needs, veto) or nobody(ask.needs, refused)
        reason = f"home in the pool {pool.name}"
        return Premises([*able.values()], self._inputs.config(), reason, way)


def asked_of(request: GenerateRequest) -> Ask:
    """What a request asks of a model."""
    return ask_of(request, assess(_asked_text(request)))


def _asked_text(request: GenerateRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return last_user_text(request.messages or [])
