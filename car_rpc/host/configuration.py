"""The configuration: what a file and the environment say of the engine, checked as a whole.

A section is the very policy that the engine works with, so that a knob is described once. What
only the app can know (framing, limits of messages, the parent) is on the command line instead.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple, cast

import msgspec
from msgspec import Struct

from car_rpc.backends.local.residency import ModelsPolicy
from car_rpc.backends.openai_compat.client import TimeLimits
from car_rpc.backends.openai_compat.discovery import DiscoveryPolicy
from car_rpc.engine.admission import AdmissionPolicy
from car_rpc.engine.breaker import BreakerPolicy
from car_rpc.engine.retry import RetryPolicy
from car_rpc.engine.routing import PreferredModels
from car_rpc.errors import CarError
from car_rpc.eventlog.privacy import PrivacyPolicy
from car_rpc.host.routing_store import check_config
from car_rpc.policy.rules import check as check_rule
from car_rpc.wire.log import RetentionPolicy
from car_rpc.wire.policy import PolicyRule
from car_rpc.wire.routing import RoutingConfig

#: What the file is called in the state directory.
FILE_NAME = "config.toml"

#: Longest file that is read, in bytes; far more than one knob for each model there is.
MAX_FILE_BYTES = 1024 * 1024

#: Stands for the name of a table that the checker does not tell.
_ANY = "..."

_AT = re.compile(r"^(?P<detail>.*?)(?: - at `\$\.?(?P<path>[^`]*)`)?$", re.DOTALL)


class Configuration(Struct, frozen=True, kw_only=True):
    """Every knob, by section.

    Attributes:
        retry: What is tried again on one model, and after which delay.
        breaker: When a model that keeps failing is left alone.
        inference: How much work local models do at once.
        models: How long local models stay loaded, and how much memory they may take.
        preferred: Models that are taken where a request names none, by id or name.
        routing: How a model is chosen, until `routing.set_config` says otherwise.
        http: How long servers with models may take.
        eventlog: How long events are kept.
        discovery: Where servers with models are looked for, when a client asks for it.
        privacy: How much of what is said the event log keeps.
        policy: Rules about what requests may do, in their order; they go before those of
            `policy.set`, and only this file changes them.
    """

    retry: RetryPolicy = RetryPolicy()
    breaker: BreakerPolicy = BreakerPolicy()
    inference: AdmissionPolicy = AdmissionPolicy()
    models: ModelsPolicy = ModelsPolicy()
    preferred: PreferredModels = PreferredModels()
    routing: RoutingConfig = RoutingConfig()
    http: TimeLimits = TimeLimits()
    eventlog: RetentionPolicy = RetentionPolicy()
    discovery: DiscoveryPolicy = DiscoveryPolicy()
    privacy: PrivacyPolicy = PrivacyPolicy()
    policy: list[PolicyRule] = []


class Knob(NamedTuple):
    """The name of one value: a table of the file and a key in it."""

    section: str
    name: str

    @property
    def variable(self) -> str:
        """The environment variable that goes before the file."""
        return f"CAR_{self.section}_{self.name}".upper()


def knobs() -> Iterator[Knob]:
    """All of them, in the order of their sections."""
    for section in _sections():
        for field in msgspec.structs.fields(section.type):
            yield Knob(section.encode_name, field.encode_name)


def _sections() -> Iterator[msgspec.structs.FieldInfo]:
    """The sections with a value for each of their keys: all but the list of rules."""
    for section in msgspec.structs.fields(Configuration):
        if section.encode_name != "policy":
            yield section


def load(path: Path, environ: Mapping[str, str], *, needed: bool = False) -> Configuration:
    """Read the file, put the environment's values over it, and check all of it.

    Args:
        path: The file.
        environ: Environment variables; see :attr:`Knob.variable`. A value is written as in the
            file; quotes around text may be left out.
        needed: Whether a file that is not there is an error.

    Raises:
        CarError: ``io_error`` that names the file and the line, or the variable.
    """
    text = _read(path, needed=needed)
    values = _parsed(text, path)
    try:
        _refuse_unknown(values)
        configuration = _checked(values)
    except (ValueError, msgspec.ValidationError) as error:
        detail, key = _where(error)
        keys = re.findall(r"\.\.\.|[^.\[\]]+", key)
        raise _wrong_line(path, line_of(text, keys), f"`{key}`: {detail}", key) from None
    _refuse_unknown_variables(environ)
    for knob in knobs():
        said = environ.get(knob.variable, "").strip()
        if said:
            values.setdefault(knob.section, {})[knob.name] = _value(said)
            try:
                configuration = _checked(values)
            except (ValueError, msgspec.ValidationError) as error:
                raise _wrong_variable(knob.variable, _where(error)[0]) from None
    return configuration


def line_of(text: str, keys: list[str]) -> int:
    """The line of a TOML text, from 1, that sets a key, or the nearest thing around it.

    Args:
        text: TOML that parses.
        keys: The key's tables and its own name, from the outside in; ``...`` is any name, and a
            table of an array is followed by its number, from 0.
    """
    found, table = 1, list[str]()
    numbers: dict[str, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        is_table = line.strip().startswith("[")
        code = re.sub(r"[\[\]\s\"']", "", line.partition("#" if is_table else "=")[0])
        names = code.split(".")
        if is_table:
            if line.strip().startswith("[["):
                numbers[names[0]] = numbers.get(names[0], -1) + 1
            if names[0] in numbers:
                names.insert(1, str(numbers[names[0]]))
            table = names
        else:
            names = [*table, *names]
        pairs = zip(names, keys, strict=False)
        if len(names) <= len(keys) and all(key in (name, _ANY) for name, key in pairs):
            found = number
            if len(names) == len(keys):
                break
    return found


def _read(path: Path, *, needed: bool) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        if needed:
            raise _wrong("not_found", str(path), "there is no such file", file=str(path)) from None
        return ""
    except OSError as error:
        detail = error.strerror or type(error).__name__
        raise _wrong("io_error", str(path), detail, file=str(path)) from None
    if len(data) > MAX_FILE_BYTES:
        detail = f"it is longer than {MAX_FILE_BYTES} bytes"
        raise _wrong("invalid_params", str(path), detail, file=str(path))
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise _wrong_line(path, line, "this is not UTF-8") from None


def _parsed(text: str, path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError) as error:
        detail, _, place = str(error).partition(" (at ")
        line = re.search(r"line (\d+)", place)
        number = int(line[1]) if line else len(text.splitlines())
        raise _wrong_line(path, number, detail) from None


def _checked(values: Mapping[str, Any]) -> Configuration:
    configuration = msgspec.convert(values, Configuration)
    try:
        check_config(configuration.routing, "$.routing")
    except CarError as error:
        raise ValueError(error.detail) from None
    _check_rules(configuration.policy)
    return configuration


def _check_rules(rules: list[PolicyRule]) -> None:
    for number, rule in enumerate(rules):
        try:
            check_rule(rule)
        except ValueError as error:
            raise ValueError(f"rule {rule.id!r}: {error} - at `$.policy[{number}]`") from None
        if any(rule.id == other.id for other in rules[:number]):
            raise ValueError(f"the id {rule.id!r} stands twice - at `$.policy[{number}].id`")


def _refuse_unknown(values: Mapping[str, Any]) -> None:
    sections = {field.encode_name: field.type for field in msgspec.structs.fields(Configuration)}
    _refuse_others(values, list(sections), [])
    for name, section in values.items():
        if isinstance(section, dict) and name != "policy":
            fields = [field.encode_name for field in msgspec.structs.fields(sections[name])]
            _refuse_others(cast("dict[str, Any]", section), fields, [name])


def _refuse_unknown_variables(environ: Mapping[str, str]) -> None:
    known = [knob.variable for knob in knobs()]
    sections = tuple(f"CAR_{section.encode_name}_".upper() for section in _sections())
    for name in environ:
        if name.startswith(sections) and name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise _wrong_variable(name, f"it is unknown{hint}")


def _refuse_others(values: Mapping[str, Any], known: list[str], within: list[str]) -> None:
    for name in values:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            hint = f"did you mean `{near[0]}`?" if near else f"known are {', '.join(known)}"
            at = ".".join([*within, name])
            raise ValueError(f"it is unknown; {hint} - at `$.{at}`")


def _where(error: Exception) -> tuple[str, str]:
    """What is wrong, and the key that it is about, from the outside in."""
    match = _AT.match(str(error))
    return (match["detail"], match["path"] or "") if match else (str(error), "")


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _wrong_line(path: Path, line: int, detail: str, key: str = "") -> CarError:
    data: dict[str, Any] = {"path": f"$.{key}"} if key else {}
    place = f"{path}, line {line}"
    return _wrong("invalid_params", place, detail, file=str(path), line=line, **data)


def _wrong_variable(name: str, detail: str) -> CarError:
    return _wrong("invalid_params", f"environment variable {name}", detail, variable=name)


def _wrong(kind: str, place: str, detail: str, **data: Any) -> CarError:
    detail = f"{place}: {detail}; `car-rpc config` lists every knob and its default"
    return CarError(kind, detail, **data)
