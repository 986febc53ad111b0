"""Parameters and results of the connection's own methods."""

from __future__ import annotations

from typing import Literal

from msgspec import UNSET, UnsetType

from car_rpc.wire.base import NonNegative, RequestId, WireStruct

PROTOCOL_VERSION = 1

#: Version of the specification within the protocol version; additions raise ``minor``.
SPEC_MAJOR = 1
SPEC_MINOR = 0


class PeerInfo(WireStruct, frozen=True, kw_only=True):
    """Name and version of a program.

    Attributes:
        name: Name of the program.
        version: Its version; empty when unknown.
    """

    name: str
    version: str = ""


class LogCapability(WireStruct, frozen=True, kw_only=True):
    """The client wants ``log`` notifications from this level on.

    Attributes:
        level: Least severe level to send.
    """

    level: Literal["debug", "info", "warning", "error"] = "info"


class ClientCapabilities(WireStruct, frozen=True, kw_only=True):
    """What the client can handle; everything is off by default.

    Attributes:
        log: Send ``log`` notifications.
        progress: Send ``$/progress`` notifications.
        approve: The client answers ``policy.approve``.
    """

    log: LogCapability | UnsetType = UNSET
    progress: bool = False
    approve: bool = False


class InitializeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``initialize``.

    Attributes:
        protocol_version: The version that the client speaks.
        client_info: The app.
        process_id: The app's process; when it dies, this one exits.
        allowed_paths: Roots below which message content may name files.
        capabilities: What the client can handle.
    """

    protocol_version: int
    client_info: PeerInfo | UnsetType = UNSET
    process_id: int | None = None
    allowed_paths: list[str] = []
    capabilities: ClientCapabilities = ClientCapabilities()


class SpecVersion(WireStruct, frozen=True, kw_only=True):
    """Which specification this very process implements; ``hash`` covers its method table.

    Attributes:
        major: Equal to ``protocol_version``.
        minor: Raised by additions.
        hash: Fingerprint of the schema, the methods and the errors, their explanations left out.
    """

    major: int
    minor: int
    hash: str


class Limits(WireStruct, frozen=True, kw_only=True):
    """Bounds of the connection.

    Attributes:
        max_message_bytes: Longest message that is accepted, in bytes.
        max_depth: Deepest nesting of a message that is accepted.
        max_in_flight: Most requests without a response; beyond, ``overloaded``.
        runner_buffer_bytes: Most bytes of notified runner events of a run that may wait.
        max_batch: Most entries of a batch.
    """

    max_message_bytes: int
    max_depth: int
    max_in_flight: int
    runner_buffer_bytes: int
    max_batch: int


class BackendInfo(WireStruct, frozen=True, kw_only=True):
    """Whether a kind of model source can be served here, and what is missing if not.

    Attributes:
        available: Whether models of this kind can run.
        reason: What is missing and how to get it.
    """

    available: bool
    reason: str | UnsetType = UNSET


class ServerCapabilities(WireStruct, frozen=True, kw_only=True):
    """What this process offers.

    Attributes:
        methods: Methods that a client may send.
        backends: Kinds of model sources, by name.
        limits: Bounds of the connection.
    """

    methods: list[str]
    backends: dict[str, BackendInfo]
    limits: Limits


class InitializeResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``initialize``.

    Attributes:
        protocol_version: The version that both sides speak.
        spec: The specification within that version.
        server_info: This program.
        session_id: Names this connection in the event log.
        capabilities: What this process offers.
    """

    protocol_version: int
    spec: SpecVersion
    server_info: PeerInfo
    session_id: str
    capabilities: ServerCapabilities


class EmptyParams(WireStruct, frozen=True, kw_only=True):
    """No parameters."""


class RunnerStatus(WireStruct, frozen=True, kw_only=True):
    """The app's runner, as the core sees it.

    Attributes:
        registered: Whether the slot is taken.
        runs: Runs under way, those that wait for a cancel to be confirmed included.
        late_events: Events since the start that came for no run, or for one that had ended.
    """

    registered: bool
    runs: int
    late_events: int


class PingResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``ping``: an object, in which the core tells how it is.

    Attributes:
        in_flight: Requests without a response, this one included.
        startup_ms: Milliseconds from the start of the process until each phase was done.
        runner: The app's runner; absent until the process has started.
    """

    in_flight: int | UnsetType = UNSET
    startup_ms: dict[str, float] | UnsetType = UNSET
    runner: RunnerStatus | UnsetType = UNSET


class CancelParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``$/cancelRequest``.

    Attributes:
        id: Id of the request, as its sender chose it.
    """

    id: RequestId


class ProgressValue(WireStruct, frozen=True, kw_only=True):
    """How far some long work is; every ``begin`` is followed by one ``end``.

    Attributes:
        kind: Whether the work begins, goes on or ended.
        message: Text for people.
        percent: How much is done, from 0 to 100.
        done_bytes: How much has come, for downloads.
        total_bytes: How much will have come in the end, where that is known.
    """

    kind: Literal["begin", "report", "end"]
    message: str | UnsetType = UNSET
    percent: float | UnsetType = UNSET
    done_bytes: NonNegative | UnsetType = UNSET
    total_bytes: NonNegative | UnsetType = UNSET


class ProgressParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``$/progress``; ``token`` is the request's ``progress_token``.

    Attributes:
        token: The request's ``progress_token``.
        value: How far it is.
    """

    token: int | str
    value: ProgressValue


class LogParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of the ``log`` notification.

    Attributes:
        level: ``debug``, ``info``, ``warning`` or ``error``.
        message: Text for people.
        source: What wrote it.
    """

    level: str
    message: str
    source: str
