"""The report on all models, over a registry of six."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from car_rpc.backends.openai_compat.credentials import Credentials
from car_rpc.backends.openai_compat.keychain import Keychain
from car_rpc.backends.openai_compat.keys import Keys
from car_rpc.engine.engine import Engine
from car_rpc.engine.ports import Availability
from car_rpc.engine.routing import PreferredModels, RoutingInputs
from car_rpc.errors import CarError
from car_rpc.host.health import CAPABILITIES, SCENARIOS, models_health
from car_rpc.host.services import Services
from car_rpc.outcomes.priors import FILE_NAME, LoadedPrior, load_priors, prior_paths
from car_rpc.policy.rules import Rules
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.testing import FakeClock, MemorySink
from car_rpc.wire.health import ModelsHealthResult
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.lifecycle import EmptyParams
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.policy import PolicyMatch, PolicyRule
from car_rpc.wire.routing import RoutingConfig
from tests.host.conftest import Counter

VECTORS = Path(__file__).parent.parent.parent / "spec" / "vectors" / "routing" / "cases.json"

SECRET = "sk-" + "never-show-this"
ACME = {"type": "openai_compat", "endpoint": "https://api.acme.com", "api_key_env": "ACME_KEY"}
ENTRY = {"service": "acme", "username": "me"}

SIX = {
    "me/chat:1": ({"type": "fake", "script": []}, "generate", "tool_use"),
    "me/see:1": ({"type": "fake", "script": []}, "generate", "vision"),
    "acme/cloud:1": (
        {**ACME, "model": "c", "headers": {"x-team": {"env": "ACME_TEAM"}, "x-key": SECRET}},
        *("generate", "code", "tool_use"),
    ),
    "acme/vectors:1": ({**ACME, "model": "v", "api_key_keyrings": [ENTRY]}, "embed"),
    "studio/llama:1": ({"type": "ollama", "model_tag": "llama3.2:3b"}, "generate"),
    "app/gpt:1": ({"type": "delegated", "hint": "gpt"}, "generate", "code"),
}


class Shelf:
    """A backend that only knows which models are available, and must not be asked for more."""

    def __init__(self) -> None:
        self.available = set(SIX)

    def availability(self, model: ModelSchema) -> Availability:
        return Availability(available=model.id in self.available, weights_ready=True)


class World:
    """Six models and what is around them."""

    def __init__(self, tmp_path: Path) -> None:
        models = [
            msgspec.convert(
                {"id": model_id, "source": source, "capabilities": list(capabilities)}, ModelSchema
            )
            for model_id, (source, *capabilities) in SIX.items()
        ]
        self.shelf = Shelf()
        self.sink = MemorySink()
        self.environ = {"ACME_KEY": SECRET}
        self.config = RoutingConfig()
        self.priors: dict[str, LoadedPrior] = {}
        self.preferred = PreferredModels()
        self.registry = Registry(models, ModelStore(tmp_path / "car.db"), tmp_path)
        self.engine = self._engine()

    def prefer(self, **models: str) -> None:
        self.preferred = PreferredModels(**models)
        self.engine = self._engine()

    def _engine(self) -> Engine:
        shelf: Any = self.shelf
        return Engine(
            self.registry,
            lambda _: shelf,
            self.sink,
            FakeClock(),
            Counter(),
            routing_inputs=RoutingInputs(config=self.current, preferred=self.preferred),
        )

    def current(self) -> RoutingConfig:
        return self.config

    async def report(self) -> ModelsHealthResult:
        nothing: Any = None
        itself: Any = self
        services = Services(
            engine=self.engine,
            registry=self.registry,
            runner=nothing,
            log=nothing,
            upkeep=nothing,
            keys=Keys(Credentials(self.environ, Keychain(read=lambda _: pytest.fail("asked")))),
            weights=nothing,
            workers=nothing,
            discovery=nothing,
            allowed_roots=[],
            routing=itself,
            policies=nothing,
            outcomes=itself,
            budget=nothing,
        )
        return await models_health(services, nothing, EmptyParams())


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    world = World(tmp_path)
    yield world
    world.registry.close()


def defaults(report: ModelsHealthResult) -> dict[str, tuple[str | None, str]]:
    return {each.capability: (each.model_id, each.reason) for each in report.defaults}


async def test_it_counts_models_by_place_and_availability(world: World) -> None:
    world.shelf.available -= {"studio/llama:1", "app/gpt:1"}
    report = await world.report()
    assert msgspec.to_builtins(report.counts) == {
        "total": 6,
        "available": 4,
        "local": 3,
        "remote": 3,
        "local_available": 2,
        "remote_available": 2,
    }


async def test_every_capability_has_a_row_in_one_order_also_without_models(world: World) -> None:
    report = await world.report()
    assert [row.capability for row in report.capabilities] == list(CAPABILITIES)
    assert [row.capability for row in report.defaults] == list(CAPABILITIES)
    counts = {row.capability: row.models for row in report.capabilities}
    assert (counts["tool_use"].local, counts["tool_use"].remote) == (1, 1)
    assert counts["embed"].total == 1
    assert counts["rerank"].total == 0


async def test_it_tells_which_model_each_capability_gets_and_why(world: World) -> None:
    world.prefer(generation="cloud")
    found = defaults(await world.report())
    assert found["generate"] == ("acme/cloud:1", "preferred generation model override")
    assert found["embed"] == ("acme/vectors:1", "the only available model for embed")
    assert found["classify"] == ("acme/cloud:1", "asked in words: preferred model for generate")
    model, reason = found["rerank"]
    assert model is None
    assert (
        reason == "model not found: no reranker model available — pull a Qwen3-Reranker model first"
    )
    world.prefer(embedding="gone")
    model, reason = defaults(await world.report())["embed"]
    assert model is None
    assert "'gone'" in reason


async def test_defaults_of_a_generate_are_those_of_the_router(world: World) -> None:
    found = defaults(await world.report())
    assert found["vision"] == ("me/see:1", "the only candidate for generate")
    assert found["tool_use"][0] == "me/chat:1"
    assert found["audio_understanding"][0] is None


async def test_providers_name_their_secrets_and_never_show_them(world: World) -> None:
    report = await world.report()
    (acme, app, me, studio) = report.providers
    assert [each.provider for each in report.providers] == ["acme", "app", "me", "studio"]
    assert {each.name: each.is_set for each in acme.credentials} == {
        "ACME_KEY": True,
        "ACME_TEAM": False,
        "keyring:acme/me": None,
    }
    assert acme.configured
    assert acme.capabilities == ["generate", "embed", "code", "tool_use"]
    assert (acme.models.total, acme.models.remote) == (2, 2)
    assert app.credentials == me.credentials == studio.credentials == []
    assert SECRET.encode() not in msgspec.json.encode(report)


async def test_a_provider_without_its_key_or_its_server_is_not_configured(world: World) -> None:
    world.environ.clear()
    world.shelf.available.clear()
    configured = {each.provider: each.configured for each in (await world.report()).providers}
    keyring = next(m for m in world.registry.all() if m.id == "acme/vectors:1").source
    has_keyring = Keys(Credentials({}, Keychain())).has_key(keyring)  # type: ignore[arg-type]  # its kind is known
    assert configured == {"acme": has_keyring, "app": True, "me": True, "studio": False}


async def test_models_tell_their_source_and_their_breaker(world: World) -> None:
    breaker = world.engine.breakers.of("me/chat:1")
    for _ in range(5):
        permit = breaker.admit(0)
        assert permit is not None
        permit.failed(CarError("provider_error"), 0)
    models = {each.model_id: each for each in (await world.report()).models}
    assert list(models) == sorted(SIX)
    assert models["acme/cloud:1"].source == "remote:https://api.acme.com"
    assert models["studio/llama:1"].source == "ollama:http://127.0.0.1:11434:llama3.2:3b"
    assert models["app/gpt:1"].source == "delegated:gpt"
    assert (models["me/chat:1"].breaker, models["me/chat:1"].retry_after_ms) == ("open", 30_000)
    assert models["me/see:1"].breaker == "closed"
    assert breaker.state == "open", "a report probes nothing"
    clock: Any = world.engine.clock
    clock.advance(30_000)
    later = {each.model_id: each for each in (await world.report()).models}["me/chat:1"]
    assert (later.breaker, later.retry_after_ms) == ("half_open", msgspec.UNSET)


async def test_four_typical_requests_are_routed_and_none_runs(world: World) -> None:
    report = await world.report()
    scenarios = {each.name: each for each in report.routing_scenarios}
    assert list(scenarios) == list(SCENARIOS)
    chosen = {name: each.decision.model_id for name, each in scenarios.items() if each.decision}
    assert chosen["interactive_vision"] == "me/see:1"
    assert chosen["interactive_tool_use"] == "me/chat:1"
    assert [each.quality_first_cold_start for each in scenarios.values()] == [
        *(True, False, True, True)
    ]
    code = scenarios["background_code"]
    assert (code.workload, code.has_tools, code.has_vision) == ("background", False, False)
    assert code.decision
    assert code.decision.task == "code"
    assert scenarios["interactive_tool_use"].has_tools
    assert scenarios["interactive_vision"].has_vision
    assert world.sink.entries == []
    assert await world.report() == report, "it changes only when something else does"


async def test_a_scenario_that_nobody_can_serve_says_why(world: World) -> None:
    world.shelf.available.discard("me/see:1")
    world.config = RoutingConfig(quality_first_cold_start=False)
    report = await world.report()
    vision = report.routing_scenarios[-1]
    assert vision.decision is msgspec.UNSET
    assert "does not support image input" in (vision.why_none or "")
    assert not any(each.quality_first_cold_start for each in report.routing_scenarios)
    assert report.routing == world.config


def test_the_scenarios_are_those_of_the_vectors() -> None:
    cases = json.loads(VECTORS.read_text(encoding="utf-8"))["cases"]
    found = {
        name: msgspec.convert(case["request"], GenerateRequest)
        for case in cases
        if (name := case["name"].removeprefix("scenario ")) != case["name"]
    }
    assert found == SCENARIOS


async def test_of_several_files_with_priors_the_last_one_wins_and_is_named(
    world: World, tmp_path: Path
) -> None:
    models_dir, named = tmp_path / "models", tmp_path / "named.json"
    models_dir.mkdir()
    (models_dir / FILE_NAME).write_text(
        '[{"model_id": "me/chat:1", "overall_score": 0.1}, {"model_id": "x", "overall_score": 0.2}]'
    )
    prior = {"model_id": "me/chat:1", "overall_score": 0.9, "task_scores": {"code": 0.8}}
    named.write_text(json.dumps(prior))
    environ = {"CAR_BENCHMARK_PRIORS_PATH": str(named)}
    world.priors = load_priors(prior_paths(models_dir, environ))
    chat, other = (await world.report()).benchmark_priors
    assert (chat.model_id, chat.known, chat.overall_score) == ("me/chat:1", True, 0.9)
    assert (chat.task_scores, chat.source_path) == ({"code": 0.8}, str(named))
    assert (other.known, other.source_path) == (False, str(models_dir / FILE_NAME))


async def test_a_model_that_a_rule_refuses_gets_nothing(world: World) -> None:
    before = {each.capability: each.model_id for each in (await world.report()).defaults}
    deny = PolicyRule(id="no", action="deny", match=PolicyMatch(methods=["generate"]))
    world.engine.policing.rules = lambda: Rules([deny])
    after = {each.capability: each for each in (await world.report()).defaults}
    assert before["generate"] is not None
    assert after["generate"].model_id is None
    assert "rule 'no' refuses" in after["generate"].reason
    assert after["embed"].model_id == before["embed"]
