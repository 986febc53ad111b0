"""docs/CONFIGURATION.md: every knob of the configuration, for people."""

from __future__ import annotations

from typing import Any

import msgspec

from car_rpc.cli.knobs import toml
from car_rpc.host.configuration import Configuration, knobs
from car_rpc.spec.docstrings import describe
from car_rpc.wire.policy import PolicyMatch, PolicyRule

_HEAD = """\
# Configuration

What an app decides (framing, limits of messages, folders) is on the command line of
`car-rpc serve`; `car-rpc serve --help` lists it. How the engine works is set here: in `config.toml`
of the state directory (`--config FILE` names another one), or in the environment, which goes before
the file.

A key or value that is wrong is an error that names the line. `car-rpc config` shows what counts.

```toml
[retry]
max_retries = 1       # or CAR_RETRY_MAX_RETRIES=1

[breaker]
cooldown_ms = 60000

[[policy]]
id = "embed-here"
action = "require_local"
match = {methods = ["embed"]}
```

Two variables of the environment are for special cases and have no key: `CAR_BENCHMARK_PRIORS_PATH`
names a file of benchmark scores, besides `benchmark_priors.json` in the models directory and in the
folder above it, and goes before both; `CAR_RPC_THREAD_IO`, set to any value, has standard input and
output read and written by threads where the system could poll them (for tests of that way).
"""


_RULE = """
What a rule decides is in `spec/PROTOCOL.md`, "Policy".

| key | value | effect |
|---|---|---|
"""


def files(notice: str) -> dict[str, str]:
    """The page, by path."""
    _, sections = describe(Configuration)
    _, components = msgspec.json.schema_components([Configuration])
    lines = [f"<!-- {notice} -->\n\n{_HEAD}"]
    section = ""
    for knob in knobs():
        kind: type[msgspec.Struct] = type(getattr(Configuration(), knob.section))
        if knob.section != section:
            section = knob.section
            lines.append(f"\n## `[{section}]`\n\n{sections[section]}\n")
            lines.append(
                "\n| key | value | default | environment | effect |\n|---|---|---|---|---|\n"
            )
        shape = components[kind.__name__]["properties"][knob.name]
        default = toml(getattr(kind(), knob.name))
        effect = describe(kind)[1][knob.name]
        lines.append(
            f"| `{knob.name}` | {_values(shape)} | `{default}` | `{knob.variable}` | {effect} |\n"
        )
    lines.append(f"\n## `[[policy]]`\n\n{sections['policy']}\n{_RULE}")
    for kind, prefix in ((PolicyRule, ""), (PolicyMatch, "match.")):
        shapes = components[kind.__name__]["properties"]
        lines += [
            f"| `{prefix}{name}` | {_values(shapes[name])} | {effect} |\n"
            for name, effect in describe(kind)[1].items()
        ]
    return {"docs/CONFIGURATION.md": "".join(lines)}


def _values(shape: dict[str, Any]) -> str:
    if "anyOf" in shape:
        return " or ".join(_values(member) for member in shape["anyOf"])
    if "enum" in shape:
        return ", ".join(f"`{value}`" for value in shape["enum"])
    words = [str(shape.get("type", "table"))]
    if "minimum" in shape:
        words.append(f"from {shape['minimum']:g}")
    if "maximum" in shape and shape["maximum"] < 2**53 - 1:
        words.append(f"to {shape['maximum']:g}")
    return " ".join(words)
