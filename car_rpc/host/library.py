"""What is used of jsonrpcserver, without its server for development.

That one would bring `http.server` and all of `email` along: 1.5 MB in every app's helper.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any, cast

sys.modules.setdefault("jsonrpcserver.server", cast("Any", SimpleNamespace(serve=None)))

from jsonrpcserver import Error, Result, Success  # noqa: E402 - it must find the line above
from jsonrpcserver.async_dispatcher import (  # noqa: E402 - as above
    dispatch_request as dispatch_async,
)
from jsonrpcserver.dispatcher import dispatch_request as dispatch_inline  # noqa: E402 - as above
from jsonrpcserver.request import Request as LibraryRequest  # noqa: E402 - as above

__all__ = ["Error", "LibraryRequest", "Result", "Success", "dispatch_async", "dispatch_inline"]
