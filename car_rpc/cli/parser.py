"""The command line's grammar."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

from car_rpc import __version__
from car_rpc.config import (
    DEFAULT_DRAIN_MS,
    DEFAULT_MAX_MESSAGE_BYTES,
    CassetteSettings,
    Settings,
    car_home,
)

#: Largest number that a process id can be (pid_t).
MAX_PROCESS_ID = 2**31 - 1

_DESCRIPTION = "One local AI engine for apps, spoken to in JSON-RPC 2.0 over stdin and stdout."


def make_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line."""
    root = argparse.ArgumentParser(prog="car-rpc", description=_DESCRIPTION)
    root.set_defaults(allow_path=[])
    root.add_argument("--version", action="version", version=f"car-rpc {__version__}")
    commands = root.add_subparsers(dest="command", metavar="COMMAND")
    _add_serve(commands.add_parser("serve", help="serve an app over stdin and stdout"))
    generate = commands.add_parser("generate", help="generate text and stream it to the terminal")
    generate.add_argument("prompt", help="what to say; - reads it from stdin")
    generate.add_argument("--model", help="id or name; the best available one by default")
    generate.add_argument("--system", help="system text")
    generate.add_argument("--max-tokens", type=int)
    generate.add_argument("--temperature", type=float)
    generate.add_argument("--thinking", choices=("auto", "on", "off"))
    _add_state(generate)
    _add_models(commands.add_parser("models", help="list the models that are known"))
    doctor = commands.add_parser(
        "doctor", help="say what is installed, what is missing, what to do"
    )
    _add_state(doctor)
    config = commands.add_parser("config", help="show every knob, its value and its default")
    _add_state(config)
    _add_log(commands.add_parser("log", help="show the event log, export, check or purge it"))
    _add_replay(commands.add_parser("replay", help="show what a request got, or run it again"))
    call = commands.add_parser("call", help="call any method and print its result")
    call.add_argument("method")
    call.add_argument("params", nargs="?", default="{}", help="JSON object (default {})")
    _add_allow_path(call)
    _add_state(call)
    commands.add_parser("schema", help="print the specification of this build as JSON")
    return root


def _add_log(log: argparse.ArgumentParser) -> None:
    log.add_argument("--trace", metavar="ID", help="only this request, as a timeline")
    log.add_argument("--limit", type=int, default=50, help="most events (default %(default)s)")
    log.add_argument("--json", action="store_true", help="one JSON object per line")
    log.add_argument("--follow", action="store_true", help="go on with what is written from now on")
    _add_state(log)
    commands = log.add_subparsers(dest="log_command", metavar="COMMAND")
    export = commands.add_parser("export", help="write events to a file or to standard output")
    export.add_argument("--format", choices=("jsonl", "otlp_json"), default="jsonl")
    export.add_argument("--content", action="store_true", help="spans that tell what was said")
    export.add_argument("--output", type=Path, metavar="FILE")
    # What the command before has said is not taken back by a default.
    unsaid = argparse.SUPPRESS
    export.add_argument("--trace", metavar="ID", default=unsaid, help="only this request")
    export.add_argument("--conversation", metavar="ID", help="only this conversation")
    export.add_argument("--since", metavar="TIME", help="such as 2026-01-31T08:30:00Z")
    export.add_argument("--until", metavar="TIME", help="only what was before it")
    import_ = commands.add_parser("import", help="take the events of a JSONL export into the log")
    import_.add_argument("file", type=Path)
    verify = commands.add_parser("verify", help="check that the log is as it was written")
    purge = commands.add_parser("purge", help="delete events for good")
    chosen = purge.add_mutually_exclusive_group(required=True)
    chosen.add_argument("--before", metavar="TIME", help="all before it")
    chosen.add_argument("--trace", metavar="ID", default=unsaid, help="those of this request")
    chosen.add_argument("--conversation", metavar="ID", help="those of this conversation")
    for command in (export, import_, verify, purge):
        _add_state(command, default=unsaid)


def _add_replay(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("trace", metavar="TRACE", help="the request, as `log` and results name it")
    replay.add_argument(
        "--mode",
        choices=("recorded", "rerun", "verify"),
        default="recorded",
        help="recorded: from the log alone (default); rerun: once more, and what is otherwise;"
        " verify: whether all is decided as it was",
    )
    replay.add_argument("--timed", action="store_true", help="with the pauses that there were")
    replay.add_argument("--json", action="store_true", help="the result as it is on the wire")
    _add_state(replay)


def _add_models(models: argparse.ArgumentParser) -> None:
    models.add_argument("--all", action="store_true", help="the whole catalog, too")
    _add_state(models)
    commands = models.add_subparsers(dest="models_command", metavar="COMMAND")
    explain = commands.add_parser("explain", help="say which model a prompt would get, and why")
    explain.add_argument("prompt", help="what would be said; - reads it from stdin")
    explain.add_argument("--model", help="id or name, as `generate` takes it")
    explain.add_argument("--json", action="store_true", help="the decision as it is on the wire")
    # What the command before has said is not taken back by a default.
    unsaid = argparse.SUPPRESS
    explain.add_argument(
        "--all", action="store_true", default=unsaid, help="also what is not available"
    )
    pull = commands.add_parser("pull", help="download the weights of a model, or go on with that")
    pull.add_argument("model", help="id or name")
    pull.add_argument(
        "--from", type=Path, metavar="PATH", dest="from_path", help="import this file or folder"
    )
    remove = commands.add_parser("remove", help="delete the weights of a model")
    remove.add_argument("model", help="id or name")
    for command in (explain, pull, remove):
        _add_state(command, default=unsaid)


def _add_serve(serve_parser: argparse.ArgumentParser) -> None:
    add = serve_parser.add_argument
    add("--framing", choices=("auto", "ndjson", "lsp"), default="auto", help="default: auto")
    _add_state(serve_parser)
    _add_allow_path(serve_parser)
    add("--parent-pid", type=_process_id, metavar="PID", help="end when this process ends")
    add(
        "--max-message-bytes",
        type=_positive,
        default=DEFAULT_MAX_MESSAGE_BYTES,
        metavar="N",
        help="longest message accepted (default %(default)s)",
    )
    add(
        "--drain-ms",
        type=_natural,
        default=DEFAULT_DRAIN_MS,
        metavar="MS",
        help="how long requests may finish at the end (default %(default)s)",
    )
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default="info",
        help="least severe level on stderr (default %(default)s)",
    )
    add(
        "--trace",
        type=Path,
        metavar="FILE",
        help="write down both directions, with times, as a conformance dialogue",
    )
    _add_cassette(serve_parser)


def _add_cassette(serve_parser: argparse.ArgumentParser) -> None:
    add = serve_parser.add_argument_group("to test an app without models").add_argument
    add("--cassette", type=Path, metavar="FILE", help="answer from a recording, or make one")
    add(
        "--cassette-mode",
        choices=("record", "replay", "auto", "strict"),
        default="replay",
        help="record: run all requests and write them down; replay: run none; auto: run those that"
        " are not there and add them; strict: replay all, in their order, each once"
        " (default %(default)s)",
    )
    add(
        "--cassette-speed",
        choices=("fast", "timed"),
        default="fast",
        help="whether what is replayed takes as long as it took (default %(default)s)",
    )


def _add_allow_path(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--allow-path",
        action="append",
        type=Path,
        default=[],
        metavar="DIR",
        help="message content may name files below DIR; may be repeated",
    )


def _add_state(command: argparse.ArgumentParser, default: str | None = None) -> None:
    add = partial(command.add_argument, type=Path, default=default)
    add(
        "--state-dir",
        metavar="DIR",
        help="where the event log and the registry are kept (default: $CAR_HOME or ~/.car)",
    )
    add(
        "--models-dir",
        metavar="DIR",
        help="where model files lie (default: models/ in $CAR_HOME or ~/.car)",
    )
    add(
        "--config",
        metavar="FILE",
        help="the configuration (default: config.toml in the state directory, if it is there)",
    )


def settings(options: argparse.Namespace) -> Settings:
    """What the options of ``serve`` ask for."""
    state_dir = (options.state_dir or car_home()).absolute()
    return Settings(
        state_dir=state_dir,
        models_dir=(options.models_dir or car_home() / "models").absolute(),
        framing=None if options.framing == "auto" else options.framing,
        allowed_paths=tuple(path.absolute() for path in options.allow_path),
        parent_pid=options.parent_pid,
        max_message_bytes=options.max_message_bytes,
        drain_ms=options.drain_ms,
        log_level=options.log_level,
        trace=options.trace,
        config=options.config.absolute() if options.config else None,
        cassette=_cassette(options),
    )


def _cassette(options: argparse.Namespace) -> CassetteSettings | None:
    if options.cassette is None:
        return None
    path = options.cassette.absolute()
    return CassetteSettings(path, options.cassette_mode, options.cassette_speed)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return value


def _process_id(text: str) -> int:
    value = _positive(text)
    if value > MAX_PROCESS_ID:
        raise argparse.ArgumentTypeError("is no process id")
    return value
