"""What is used of jsonrpcserver, without its server for development and its validator of text.

The one would bring `http.server` and all of `email` along, the other `jsonschema`, which looks at
requests that are decoded here and checked by then: 4 MB in every app's helper.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

#: The modules that are left out, and what the others import from them.
_LEFT_OUT = {
    "server": ("serve",),
    "main": (
        *("default_deserializer", "default_validator"),
        *("dispatch", "dispatch_to_response", "dispatch_to_serializable"),
    ),
}
for _module, _names in _LEFT_OUT.items():
    _stand_in = cast("Any", SimpleNamespace(**dict.fromkeys(_names)))
    sys.modules.setdefault(f"jsonrpcserver.{_module}", _stand_in)

from jsonrpcserver import Error, Result, Success  # noqa: E402 - it must find the stand-ins
from jsonrpcserver.async_dispatcher import (  # noqa: E402 - as above
    dispatch_request as dispatch_async,
)
from jsonrpcserver.dispatcher import dispatch_request as dispatch_inline  # noqa: E402 - as above
from jsonrpcserver.request import Request as LibraryRequest  # noqa: E402 - as above

__all__ = ["Error", "LibraryRequest", "Result", "Success", "dispatch_async", "dispatch_inline"]
