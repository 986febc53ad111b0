"""A running car-rpc process and its methods, typed."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.abc
import msgspec

from car_rpc import __version__
from car_rpc.client.approvals import Approvals, Approve
from car_rpc.client.connection import ClientConnection
from car_rpc.client.runner import Runner, RunnerRuns
from car_rpc.client.stream import GenerateStream, LogStream, ReplayStream
from car_rpc.errors import CarError
from car_rpc.protocol.messages import Notification, Request, write_error, write_result
from car_rpc.wire.admission import AdmissionStatus
from car_rpc.wire.health import ModelsHealthResult
from car_rpc.wire.inference import (
    DetokenizeResult,
    EmbedResult,
    InferenceResult,
    TokenizeResult,
)
from car_rpc.wire.keys import EndpointKeys, KeysStatsResult
from car_rpc.wire.lifecycle import (
    PROTOCOL_VERSION,
    CancelParams,
    InitializeResult,
    LogParams,
    ProgressParams,
    ProgressValue,
)
from car_rpc.wire.log import (
    EventlogExportResult,
    EventlogPurgeResult,
    EventlogQueryResult,
    EventlogRetentionResult,
    EventlogVerifyResult,
    RetentionPolicy,
)
from car_rpc.wire.models import (
    ModelResult,
    ModelSchema,
    ModelsDiscoverResult,
    ModelsListResult,
    ModelsRegisterResult,
    ModelsUnregisterResult,
)
from car_rpc.wire.outcomes import (
    ModelProfile,
    ModelsStatsResult,
    ModelStats,
    OutcomesReportResult,
    OutcomesResolvePendingResult,
    OutcomesScoreboardResult,
    PendingOutcome,
    ProfilesImportResult,
    ProfilesResult,
    ScoreboardRow,
)
from car_rpc.wire.pulls import ModelsPullResult, ModelsRemoveResult
from car_rpc.wire.replay import ReplayRunResult
from car_rpc.wire.residency import (
    ModelsLoadResult,
    ModelsUnloadResult,
    ModelsWarmUpResult,
    WarmUpResult,
)
from car_rpc.wire.routing import RouteDecision
from car_rpc.wire.search import ModelsSearchResult, ModelsUpgradesResult, ModelUpgrade
from car_rpc.wire.speech import TranscribeResult
from car_rpc.wire.spend import SpendStatusResult
from car_rpc.wire.tasks import ClassifyResult, GroundResult, RerankResult

T = TypeVar("T")

#: Told how far some long work is.
OnProgress: TypeAlias = Callable[[ProgressValue], None]

#: What starts this Python's own car-rpc.
SERVE = (sys.executable, "-P", "-m", "car_rpc", "serve")


class CarClient:
    """A running car-rpc process. Use :meth:`start`."""

    def __init__(
        self,
        process: anyio.abc.Process,
        tasks: anyio.abc.TaskGroup,
        on_log: Callable[[LogParams], None] | None,
        approve: Approve | None = None,
    ) -> None:
        #: What the process said of itself.
        self.server: InitializeResult | None = None
        self._on_log = on_log
        self._on_progress: dict[str, OnProgress] = {}
        self._tokens = itertools.count()
        self._connection = ClientConnection(process, self._take_request, self._take_notification)
        self._runs = RunnerRuns(self._connection, tasks)
        self._approvals = Approvals(self._connection, tasks, approve)

    @classmethod
    @asynccontextmanager
    async def start(  # noqa: PLR0913 - the options of one process, each by its name
        cls,
        *,
        arguments: Sequence[str] = (),
        command: Sequence[str] = SERVE,
        env: dict[str, str] | None = None,
        stderr: int | None = subprocess.PIPE,
        allowed_paths: Sequence[str] = (),
        runner: Runner | None = None,
        approve: Approve | None = None,
        on_log: Callable[[LogParams], None] | None = None,
        log_level: str = "info",
    ) -> AsyncGenerator[CarClient]:
        """Spawn the process and initialize the connection; leave nothing behind.

        Args:
            arguments: Options of ``car-rpc serve``, such as ``--state-dir``.
            command: What to spawn, when it is not this Python's own car-rpc.
            env: Environment of the process; this one's when ``None``.
            stderr: Where its log lines go, as for ``subprocess``; ``None`` shows them, and
                ``PIPE``, the default, keeps the last of them for :class:`ProcessEnded`.
            allowed_paths: Roots below which message content may name files.
            runner: Runs delegated models from the start, as :meth:`register_runner` does.
            approve: Says whether what rules want approved may happen; see ``policy.set``.
            on_log: Gets the process's log, too.
            log_level: Least severe level for ``on_log``.

        Raises:
            RemoteError: The process refused the connection.
            ProcessEnded: It ended before it answered.
        """
        process = await anyio.open_process([*command, *arguments], env=env, stderr=stderr)
        failure: BaseException | None = None
        try:
            async with anyio.create_task_group() as tasks:
                client = cls(process, tasks, on_log, approve)
                tasks.start_soon(client._connection.read)
                try:
                    await client._initialize(allowed_paths, log_level)
                    if runner is not None:
                        await client.register_runner(runner)
                    yield client
                except BaseException as error:
                    failure = error
                    raise
                finally:
                    try:
                        with anyio.CancelScope(shield=True):
                            await client._connection.leave()
                    finally:
                        client._connection.stop_reading()
                        tasks.cancel_scope.cancel()
        except BaseExceptionGroup:
            if failure is None:
                raise
            # What the caller raised comes out as it was, not in a group.
            raise failure from None

    @property
    def pid(self) -> int:
        """Process id of the core."""
        return self._connection.process.pid

    @property
    def exit_code(self) -> int | None:
        """The exit code of the process, once it has ended, as after :meth:`start`'s block."""
        return self._connection.process.returncode

    # Calls

    async def request(self, method: str, params: Any, result_type: type[T]) -> T:
        """Call a method.

        Raises:
            RemoteError: The request failed.
            ProcessEnded: The process is gone.
        """
        return await self._connection.request(method, params, result_type)

    async def call(self, method: str, params: Any = None) -> Any:
        """Call any method; returns its result as plain Python values."""
        return await self.request(method, {} if params is None else params, object)

    async def notify(self, method: str, params: Any) -> None:
        """Send a notification."""
        await self._connection.notify(method, params)

    async def generate(self, **params: Any) -> InferenceResult:
        """Generate without events; the fields are those of ``GenerateRequest``."""
        return await self.request("generate", params, InferenceResult)

    def stream(self, **params: Any) -> GenerateStream:
        """Generate with events; use it in ``async with``."""
        return GenerateStream(self._connection, {**params, "stream": True})

    async def embed(self, texts: Sequence[str], **params: Any) -> EmbedResult:
        """Embed texts; the other fields are those of ``EmbedParams``."""
        return await self.request("embed", {**params, "texts": list(texts)}, EmbedResult)

    async def tokenize(self, model: str, text: str) -> list[int]:
        """Token ids of a text."""
        params = {"model": model, "text": text}
        return (await self.request("tokenize", params, TokenizeResult)).tokens

    async def detokenize(self, model: str, tokens: Sequence[int]) -> str:
        """Text of token ids."""
        params = {"model": model, "tokens": list(tokens)}
        return (await self.request("detokenize", params, DetokenizeResult)).text

    async def classify(self, text: str, labels: Sequence[str], **params: Any) -> ClassifyResult:
        """Say which labels fit a text; the other fields are those of ``ClassifyParams``."""
        asked = {**params, "text": text, "labels": list(labels)}
        return await self.request("classify", asked, ClassifyResult)

    async def rerank(self, query: str, documents: Sequence[str], **params: Any) -> RerankResult:
        """Order documents by how well they fit; the other fields are those of ``RerankParams``."""
        asked = {**params, "query": query, "documents": list(documents)}
        return await self.request("rerank", asked, RerankResult)

    async def ground(self, **params: Any) -> GroundResult:
        """Find things in an image; the fields are those of ``GroundParams``."""
        return await self.request("ground", params, GroundResult)

    async def transcribe(self, **params: Any) -> TranscribeResult:
        """Write down what is said; the fields are those of ``TranscribeParams``."""
        return await self.request("transcribe", params, TranscribeResult)

    async def models(self, **filters: Any) -> list[ModelSchema]:
        """All models, or those that match ``ModelsListParams``."""
        return (await self.request("models.list", filters, ModelsListResult)).models

    async def model(self, wanted: str) -> ModelSchema:
        """One model by id or name."""
        return (await self.request("models.get", {"model": wanted}, ModelResult)).model

    async def search_models(self, **params: Any) -> ModelsSearchResult:
        """Models that suit this machine; the fields are those of ``ModelsSearchParams``."""
        return await self.request("models.search", params, ModelsSearchResult)

    async def model_upgrades(self) -> list[ModelUpgrade]:
        """Newer versions of the models whose weights are here."""
        return (await self.request("models.upgrades", {}, ModelsUpgradesResult)).upgrades

    async def register_model(self, model: ModelSchema | dict[str, Any]) -> ModelsRegisterResult:
        """Add a model to the registry."""
        return await self.request("models.register", {"model": model}, ModelsRegisterResult)

    async def unregister_model(self, wanted: str) -> str:
        """Forget a model; returns its id."""
        params = {"model": wanted}
        result = await self.request("models.unregister", params, ModelsUnregisterResult)
        return result.model_id

    async def pull_model(
        self, wanted: str, *, from_path: str | None = None, on_progress: OnProgress | None = None
    ) -> ModelsPullResult:
        """Download the weights of a model, or import them; cancelled, the next call goes on.

        Args:
            wanted: Id or name of the model.
            from_path: Import them from this file or folder.
            on_progress: Told how far it is.
        """
        token = f"pull-{next(self._tokens)}"
        params: dict[str, Any] = {"model": wanted}
        if from_path is not None:
            params["from_path"] = from_path
        if on_progress is not None:
            params["progress_token"] = token
            self._on_progress[token] = on_progress
        try:
            return await self.request("models.pull", params, ModelsPullResult)
        finally:
            self._on_progress.pop(token, None)

    async def remove_model(self, wanted: str) -> ModelsRemoveResult:
        """Delete the weights of a model; it stays in the registry."""
        return await self.request("models.remove", {"model": wanted}, ModelsRemoveResult)

    async def load_model(self, wanted: str, **params: Any) -> ModelsLoadResult:
        """Load a model before it is needed; ``keep_alive_ms`` says how long it stays."""
        return await self.request("models.load", {"model": wanted, **params}, ModelsLoadResult)

    async def unload_model(self, wanted: str) -> ModelsUnloadResult:
        """Take a model out of memory; its process is gone when this returns."""
        return await self.request("models.unload", {"model": wanted}, ModelsUnloadResult)

    async def warm_up(self, models: Sequence[str], **params: Any) -> list[WarmUpResult]:
        """Load models, and tell of each whether it is ready."""
        request = {"models": list(models), **params}
        return (await self.request("models.warm_up", request, ModelsWarmUpResult)).results

    async def model_health(self) -> ModelsHealthResult:
        """The state of all models: what there is, what is missing, who would get what."""
        return await self.request("models.health", {}, ModelsHealthResult)

    async def route(self, **params: Any) -> RouteDecision:
        """Which model ``generate`` would get with these fields, and why; it does not run."""
        return await self.request("models.route", params, RouteDecision)

    async def model_stats(self, model: str | None = None) -> list[ModelStats]:
        """How models did so far, all or one by id or name."""
        params = {} if model is None else {"model": model}
        return (await self.request("models.stats", params, ModelsStatsResult)).models

    async def report_outcome(self, trace_id: str, **verdict: Any) -> OutcomesReportResult:
        """Judge an answer; the verdict's fields are those of ``OutcomesReportParams``."""
        params = {"trace_id": trace_id, **verdict}
        return await self.request("outcomes.report", params, OutcomesReportResult)

    async def resolve_pending(
        self, outcomes: Sequence[PendingOutcome | dict[str, Any]]
    ) -> OutcomesResolvePendingResult:
        """Judge many answers at once, as far as they are known."""
        params = {"outcomes": list(outcomes)}
        return await self.request("outcomes.resolve_pending", params, OutcomesResolvePendingResult)

    async def scoreboard(self, **filters: Any) -> list[ScoreboardRow]:
        """What models achieved, and for how much; see ``OutcomesScoreboardParams``."""
        result = await self.request("outcomes.scoreboard", filters, OutcomesScoreboardResult)
        return result.models

    async def export_profiles(self) -> list[ModelProfile]:
        """What was observed of all models."""
        return (await self.request("profiles.export", {}, ProfilesResult)).profiles

    async def import_profiles(self, profiles: Sequence[ModelProfile | dict[str, Any]]) -> int:
        """Take over what was observed elsewhere; returns of how many models."""
        params = {"profiles": list(profiles)}
        return (await self.request("profiles.import", params, ProfilesImportResult)).imported

    async def spend_status(self, **whose: Any) -> SpendStatusResult:
        """What was spent and what may be; see ``SpendStatusParams``."""
        return await self.request("spend.status", whose, SpendStatusResult)

    async def set_spend_limits(self, **limits: Any) -> SpendStatusResult:
        """Replace spend limits; the fields are those of ``SpendLimits``."""
        return await self.request("spend.set_limits", limits, SpendStatusResult)

    async def admission_status(self) -> AdmissionStatus:
        """How much local work runs and waits."""
        return await self.request("admission.status", {}, AdmissionStatus)

    async def discover_models(self, **params: Any) -> ModelsDiscoverResult:
        """Look for servers with models; the fields are those of ``ModelsDiscoverParams``."""
        return await self.request("models.discover", params, ModelsDiscoverResult)

    async def key_stats(self) -> list[EndpointKeys]:
        """How the API keys of servers have fared."""
        return (await self.request("keys.stats", {}, KeysStatsResult)).endpoints

    async def query_log(self, **filters: Any) -> EventlogQueryResult:
        """A page of the event log; the fields are those of ``EventlogQueryParams``."""
        return await self.request("eventlog.query", filters, EventlogQueryResult)

    def watch_log(self, from_seq: int | None = None) -> LogStream:
        """Events of the log of all processes, from a number or from now on; use ``async with``."""
        params = {} if from_seq is None else {"from_seq": from_seq}
        return LogStream(self._connection, params)

    async def export_log(self, format: str, **params: Any) -> EventlogExportResult:  # noqa: A002 - the wire's name
        """Export the log; the other fields are those of ``EventlogExportParams``."""
        asked = {**params, "format": format}
        return await self.request("eventlog.export", asked, EventlogExportResult)

    async def verify_log(self) -> EventlogVerifyResult:
        """Check that the log is as it was written."""
        return await self.request("eventlog.verify", {}, EventlogVerifyResult)

    async def purge_log(self, **chosen: Any) -> int:
        """Delete events; the fields are those of ``EventlogPurgeParams``. Returns how many."""
        return (await self.request("eventlog.purge", chosen, EventlogPurgeResult)).purged

    async def log_retention(self, **params: RetentionPolicy | None) -> EventlogRetentionResult:
        """How long events are kept; ``policy`` changes it."""
        return await self.request("eventlog.retention", params, EventlogRetentionResult)

    async def replay(self, trace_id: str, mode: str, **params: Any) -> ReplayRunResult:
        """What a request got, or gets now; see ``ReplayRunParams``.

        Raises:
            RemoteError: The request failed, then or now.
            ProcessEnded: The process is gone.
        """
        asked = {**params, "trace_id": trace_id, "mode": mode}
        return await self.request("replay.run", asked, ReplayRunResult)

    def stream_replay(self, trace_id: str, mode: str, **params: Any) -> ReplayStream:
        """The same with the events of a ``generate``; use it in ``async with``."""
        asked = {**params, "trace_id": trace_id, "mode": mode, "stream": True}
        return ReplayStream(self._connection, asked)

    async def register_runner(self, runner: Runner, **params: Any) -> None:
        """Run delegated models with a function of this program, instead of an earlier one.

        Args:
            runner: Called for each run, several at a time; see :class:`RunnerRun`.
            params: Those of ``runner.register``: ``name`` and ``hints``.
        """
        self._runs.runner = runner
        await self.call("runner.register", params)

    async def unregister_runner(self) -> None:
        """Stop running delegated models."""
        await self.call("runner.unregister")
        self._runs.runner = None

    # Connection

    async def _initialize(self, allowed_paths: Sequence[str], log_level: str) -> None:
        capabilities: dict[str, Any] = {"log": {"level": log_level}} if self._on_log else {}
        if self._approvals.approve is not None:
            capabilities["approve"] = True
        params = {
            "protocol_version": PROTOCOL_VERSION,
            "client_info": {"name": "car-rpc-python", "version": __version__},
            "process_id": os.getpid(),
            "allowed_paths": list(allowed_paths),
            "capabilities": capabilities,
        }
        self.server = await self.request("initialize", params, InitializeResult)

    async def _take_request(self, request: Request) -> None:
        if request.method == "runner.run":
            await self._runs.start(request)
        elif request.method == "policy.approve":
            await self._approvals.start(request)
        elif request.method == "ping":
            await self._connection.write(write_result(request.id, b"{}"))
        else:
            error = CarError("method_not_found", request.method)
            await self._connection.write(write_error(request.id, error))

    def _take_notification(self, notification: Notification) -> None:
        if notification.method == "$/cancelRequest":
            request_id = msgspec.json.decode(notification.params, type=CancelParams).id
            self._runs.cancel(request_id)
            self._approvals.cancel(request_id)
        elif notification.method == "$/progress":
            progress = msgspec.json.decode(notification.params, type=ProgressParams)
            if listener := self._on_progress.get(str(progress.token)):
                listener(progress.value)
        elif notification.method == "log" and self._on_log is not None:
            self._on_log(msgspec.json.decode(notification.params, type=LogParams))
