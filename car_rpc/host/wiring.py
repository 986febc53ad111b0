"""Put the parts together: settings in, a dispatcher with everything behind it out."""

from __future__ import annotations

import asyncio
import os
import secrets
from collections.abc import Sequence
from pathlib import Path

from car_rpc import __version__
from car_rpc.backends.delegated import DelegatedBackend
from car_rpc.backends.fake import FakeBackend, needs_worker
from car_rpc.backends.local.backend import LocalBackend
from car_rpc.backends.local.ledger import Ledger
from car_rpc.backends.local.process import ProcessControl
from car_rpc.backends.local.weights import Weights
from car_rpc.backends.local.workers import Workers
from car_rpc.backends.openai_compat.backend import OpenAICompatBackend
from car_rpc.backends.openai_compat.discovery import Discovery
from car_rpc.backends.openai_compat.key_stats import KeyStatsStore
from car_rpc.config import Settings, hub_cache
from car_rpc.engine.engine import Engine
from car_rpc.engine.permits import Admission
from car_rpc.engine.ports import Approver, Backend, LogEntry
from car_rpc.engine.privacy import Privacy
from car_rpc.engine.routing import RoutingInputs
from car_rpc.errors import CarError
from car_rpc.eventlog.times import to_text
from car_rpc.eventlog.upkeep import Upkeep
from car_rpc.eventlog.writer import EventLog
from car_rpc.host.configuration import FILE_NAME, Configuration, load
from car_rpc.host.dispatch import Dispatcher
from car_rpc.host.policy_store import PolicyStore
from car_rpc.host.routing_store import RoutingStore
from car_rpc.host.runner import RunnerHost
from car_rpc.host.services import Services
from car_rpc.host.system import RandomIds, SystemClock, now
from car_rpc.outcomes.earlier import take_over
from car_rpc.outcomes.priors import load_priors, prior_paths
from car_rpc.outcomes.store import OutcomeStore
from car_rpc.outcomes.tracker import Tracker
from car_rpc.registry.builtin import builtin_models
from car_rpc.registry.curated import curated
from car_rpc.registry.fit import Fitting, usable_bytes
from car_rpc.registry.hardware import detect, memory_total_bytes
from car_rpc.registry.machine import has_apple_gpu
from car_rpc.registry.registry import Registry
from car_rpc.registry.store import ModelStore
from car_rpc.spend.budget import Budget
from car_rpc.spend.store import SpendStore
from car_rpc.wire.models import (
    DelegatedSource,
    FakeSource,
    LocalSource,
    MlxSource,
    ModelSchema,
    ModelSource,
    OllamaSource,
    OpenAICompatSource,
    RemoteApiSource,
    SystemSource,
    VllmMlxSource,
)

#: The one database of a state directory.
DATABASE_NAME = "car.db"

#: Backends that run workers: the worker's engine, and the library that it needs.
_ENGINES = {
    "local": ("llama_cpp", "llama_cpp"),
    "mlx": ("mlx", "mlx_lm"),
    "system": ("pocketsphinx", "pocketsphinx"),
    "fake_worker": ("fake", None),
}


#: Which backend serves a source.
_SERVED_BY: dict[type[ModelSource], str] = {
    LocalSource: "local",
    MlxSource: "mlx",
    SystemSource: "system",
    DelegatedSource: "delegated",
    OpenAICompatSource: "openai_compat",
    RemoteApiSource: "openai_compat",
    OllamaSource: "openai_compat",
    VllmMlxSource: "openai_compat",
}


class App:
    """Everything behind the dispatcher, so that it can be closed again.

    Args:
        settings: The process's settings.
        session_id: Names the session in the event log.
        control: What the operating system does for workers.
        runner: The way to the app's runner.
        approver: The way to ask the app.
        allowed_paths: Roots that the client named when it introduced itself.

    Raises:
        CarError: ``io_error`` when the state directory cannot be used, or the configuration is
            wrong.
    """

    def __init__(
        self,
        settings: Settings,
        session_id: str,
        control: ProcessControl,
        runner: RunnerHost,
        approver: Approver,
        allowed_paths: Sequence[Path],
    ) -> None:
        _make_private_directory(settings.state_dir)
        configuration = _configuration(settings)
        database = settings.state_dir / DATABASE_NAME
        self.log = EventLog.open(database, session_id, now, configuration.privacy.secrets())
        self._upkeep = Upkeep(database, self.log, configuration.eventlog, now)
        self._upkeep_task: asyncio.Task[None] | None = None
        self._fits = Fitting()
        self._registry = Registry(
            [*builtin_models(), *curated().models],
            ModelStore(database),
            settings.models_dir,
            hub_cache(),
            mlx_first=has_apple_gpu(),
        )
        self._routing = RoutingStore(database, configuration.routing)
        self._policies = PolicyStore(database, configuration.policy)
        self._outcomes = _tracker(database, settings)
        self._budget = Budget(SpendStore(database), now)
        openai_compat = OpenAICompatBackend(
            configuration.http.timeouts(), key_stats=KeyStatsStore(database)
        )
        self._ledger = Ledger(database, control.exists, control.memory_bytes)
        workers = Workers(
            control, self.log, SystemClock(), configuration.models, self._usable_bytes, self._ledger
        )
        self._weights = Weights(
            self._registry, control, self._backend_of, settings.models_dir, hub_cache()
        )
        self._backends = _backends(workers, runner, openai_compat)
        services = Services(
            engine=self._engine(configuration, approver),
            registry=self._registry,
            runner=runner,
            log=self.log,
            upkeep=self._upkeep,
            keys=openai_compat.keys,
            weights=self._weights,
            workers=workers,
            discovery=Discovery(openai_compat.presence, configuration.discovery),
            allowed_roots=[settings.state_dir, *settings.allowed_paths, *allowed_paths],
            routing=self._routing,
            policies=self._policies,
            outcomes=self._outcomes,
            budget=self._budget,
        )
        self.dispatcher = Dispatcher(services)

    async def stop_backends(self) -> None:
        """Stop all workers."""
        await self._weights.close()
        for backend in self._backends.values():
            await backend.close()

    def begin_session(self) -> None:
        """Record that the session began; look at the machine, and after the log, meanwhile."""
        self._upkeep_task = asyncio.create_task(self._upkeep.run())
        self.log.append(LogEntry("session_start", {"version": __version__}))
        asyncio.get_running_loop().run_in_executor(None, self._look_at_machine)

    async def close(self, reason: str, timeout_s: float) -> None:
        """Record that the session ended, write out the event log and close the database."""
        if self._upkeep_task is not None:
            self._upkeep_task.cancel()
        self.log.append(LogEntry("session_end", {"reason": reason}))
        await asyncio.gather(self.log.close(timeout_s), self._outcomes.close(timeout_s))
        self._registry.close()
        self._routing.close()
        self._policies.close()
        self._budget.close()
        self._ledger.close()

    def _engine(self, configuration: Configuration, approver: Approver) -> Engine:
        clock = SystemClock()
        return Engine(
            self._registry,
            self._backend_of,
            self.log,
            clock,
            RandomIds(),
            retry_policy=configuration.retry,
            breaker_policy=configuration.breaker,
            routing_inputs=RoutingInputs(
                config=self._routing.current,
                preferred=configuration.preferred,
                profiles=self._outcomes.profiles,
                fits=self._fits,
            ),
            outcomes=self._outcomes,
            budget=self._budget,
            admission=Admission(clock, memory_total_bytes(), configuration.inference),
            privacy=Privacy(
                configuration.privacy.level,
                configuration.privacy.secrets(),
                salt=secrets.token_bytes(32),
            ),
            rules=self._policies.current,
            approver=approver,
        )

    def _usable_bytes(self) -> int:
        """Memory that models may take; three quarters of it while the machine is not known."""
        machine = self._fits.machine
        return memory_total_bytes() * 3 // 4 if machine is None else usable_bytes(machine)

    def _look_at_machine(self) -> None:
        self._fits.machine = detect()

    def _backend_of(self, model: ModelSchema) -> Backend:
        source = model.source
        if isinstance(source, FakeSource):
            return self._backends["fake_worker" if needs_worker(source.script) else "fake"]
        return self._backends[_SERVED_BY[type(source)]]


def _backends(
    workers: Workers, runner: RunnerHost, openai_compat: OpenAICompatBackend
) -> dict[str, Backend]:
    return {
        **{name: LocalBackend(*engine, workers) for name, engine in _ENGINES.items()},
        "fake": FakeBackend(),
        "delegated": DelegatedBackend(runner, RandomIds()),
        "openai_compat": openai_compat,
    }


def _make_private_directory(path: Path) -> None:
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise CarError(
            "io_error",
            f"the state directory {path} cannot be made ({error.strerror});"
            " choose another with --state-dir",
            path=str(path),
        ) from error


def _configuration(settings: Settings) -> Configuration:
    is_needed = settings.config is not None
    path = settings.config or settings.state_dir / FILE_NAME
    return load(path, os.environ, needed=is_needed)


def _tracker(database: Path, settings: Settings) -> Tracker:
    store = OutcomeStore(database)
    take_over((settings.state_dir, settings.models_dir), store)
    priors = load_priors(prior_paths(settings.models_dir, os.environ))
    return Tracker(store, priors, lambda: to_text(now()))
