"""What is otherwise in the answer to a request that ran again. Pure."""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, cast

from msgspec import UNSET

from car_rpc.wire.replay import Difference

if TYPE_CHECKING:
    from collections.abc import Iterator

#: What is never the same, or belongs to the client: ids of the request, and times.
_NOT_COMPARED = re.compile(
    r"\$(\.data)?\.(trace_id|client_ref|latency_ms|time_to_first_token_ms)"
    r"|\$\.attempts\[[0-9]+\]\.latency_ms"
)


def differences(recorded: Any, now: Any, path: str = "$") -> Iterator[Difference]:
    """The values that differ, in the order of the recorded ones.

    Args:
        recorded: The JSON of the result or the error, as it was.
        now: The same as it is now. ``msgspec.UNSET`` in both for what is not there.
        path: Where it stands.
    """
    if recorded == now or _NOT_COMPARED.fullmatch(path):
        return
    if isinstance(recorded, dict) and isinstance(now, dict):
        before, after = cast("dict[str, Any]", recorded), cast("dict[str, Any]", now)
        for name in before | after:
            yield from differences(
                before.get(name, UNSET), after.get(name, UNSET), f"{path}.{name}"
            )
    elif isinstance(recorded, list) and isinstance(now, list):
        lists = cast("list[list[Any]]", [recorded, now])
        for index, (item, other) in enumerate(zip_longest(*lists, fillvalue=UNSET)):
            yield from differences(item, other, f"{path}[{index}]")
    else:
        yield Difference(path=path, recorded=recorded, now=now)
