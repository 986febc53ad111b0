"""What the wire types leave unsaid: names of unions, and what raw JSON holds.

msgspec names only Structs. A union or an enumeration that a reader would look for by its name is
listed here, so that it becomes a definition of its own wherever it occurs.
"""

from __future__ import annotations

from types import ModuleType

from car_rpc.wire import content, events, inference, log, models, routing, speculation

#: Meanings of named unions and enumerations, by module and name.
NAMED: dict[ModuleType, dict[str, str]] = {
    content: {
        "ContentBlock": "A piece of a message's content.",
        "Source": "Where media comes from.",
    },
    events: {
        "RunnerEvent": "An event that a runner may send.",
        "StopReason": "Why a model stopped.",
        "StreamEvent": "An event that `generate.event` carries to the client.",
    },
    inference: {
        "ResponseFormat": "A form that an answer must have.",
        "ThinkingMode": "Whether a model may reason before it answers.",
        "Workload": "What the router optimises for.",
    },
    log: {"Order": "Oldest first or newest first."},
    models: {
        "Capability": "Something that a model can do.",
        "ModelSource": "Where a model comes from and what runs it.",
        "ServerKind": "A program that serves models; `other` for all that are not told apart.",
        "Pooling": "How token embeddings become one vector.",
    },
    routing: {
        "RoutingMode": "Which weights the router uses.",
        "RoutingStrategy": "What a decision rests on.",
        "Task": "A kind of work, by which the router learns.",
        "TaskComplexity": "How hard a request looks.",
        "TaskHint": "What a request is for.",
    },
    speculation: {"Speculation": "How what an answer goes on with is guessed."},
}

#: What a field holds that is raw JSON, or any string, to the core.
HELD: dict[tuple[str, str], str] = {
    ("ErrorData", "kind"): "ErrorKind",
    ("ErrorEvent", "kind"): "ErrorKind",
    ("RunnerErrorData", "kind"): "ErrorKind",
    ("RunnerEventParams", "event"): "RunnerEvent",
    ("RunnerRunParams", "request"): "GenerateRequest",
    ("ScriptedFailure", "kind"): "ErrorKind",
}

#: The client's own words, which the core passes on: what they hold is not sent by the core.
PASSED_ON = frozenset({("RunnerRunParams", "request")})
