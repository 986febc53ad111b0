"""From a request to its handler and back, through jsonrpcserver.

The library dispatches a request that is already decoded: it finds the method in the table and
calls it. Parameters stay raw until the method's own decoder takes them, and this is the one
place that turns exceptions into wire errors.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from inspect import signature
from typing import Any, NamedTuple, Protocol, TypeAlias, TypeVar

import msgspec

from car_rpc.errors import CarError
from car_rpc.host import policies
from car_rpc.host.handlers import HANDLERS
from car_rpc.host.library import (
    Error,
    LibraryRequest,
    Result,
    Success,
    dispatch_async,
    dispatch_inline,
)
from car_rpc.host.params import decode_params
from car_rpc.host.services import Handler, Scope, Services
from car_rpc.wire.base import RequestId
from car_rpc.wire.methods import METHODS
from car_rpc.wire.runner import RunnerEventParams

logger = logging.getLogger(__name__)

Outcome: TypeAlias = bytes | CarError

F = TypeVar("F", bound=Callable[..., Any])

#: What the library hands to a method: the whole request, its parameters raw.
_NO_ARGUMENTS: list[Any] = []


class Dispatching(Protocol):
    """Answers requests."""

    def is_inline(self, method: str, /) -> bool:
        """Whether a method can run at once, in order of arrival."""
        ...

    def call_inline(
        self, method: str, scope: Scope, raw_params: bytes
    ) -> Outcome | asyncio.Future[Any]:
        """Call an inline method. A future is its outcome, once there is one."""
        ...

    async def call(self, method: str, scope: Scope, raw_params: bytes) -> Outcome:
        """Call any method."""
        ...

    def take_runner_event(self, raw_params: bytes) -> None:
        """Take a ``runner.event`` that is a notification."""
        ...

    def cancel_requested(self, request_id: RequestId) -> None:
        """A request will be cancelled."""
        ...


class _Call(NamedTuple):
    scope: Scope
    raw_params: bytes


class Dispatcher:
    """Calls handlers.

    Args:
        services: What handlers work with.
    """

    def __init__(self, services: Services) -> None:
        self._services = services
        self._inline: dict[str, Callable[[_Call], Result]] = {}
        # The library types its table for plain functions and awaits what these return.
        self._async: dict[str, Callable[..., Any]] = {}
        for name, handler in HANDLERS.items():
            if METHODS[name].inline:
                self._inline[name] = _inline_method(name, handler, services)
            else:
                self._async[name] = _async_method(name, handler, services)

    def is_inline(self, method: str) -> bool:
        """Whether a method can run at once, in order of arrival."""
        return method in self._inline

    def call_inline(
        self, method: str, scope: Scope, raw_params: bytes
    ) -> Outcome | asyncio.Future[Outcome]:
        """Call an inline method. A future is its result, once there is one."""
        request = LibraryRequest(method, _NO_ARGUMENTS, scope.origin.request_id)
        _, result = dispatch_inline(self._inline, _Call(scope, raw_params), request)
        return _outcome(result, method)

    def take_runner_event(self, raw_params: bytes) -> None:
        """Take a ``runner.event`` that is a notification: nobody waits for what comes of it."""
        try:
            params = decode_params(raw_params, RunnerEventParams)
            self._services.runner.event(params, wants_reply=False)
        except CarError as error:
            logger.debug("a runner event is ignored: %s", error)
        except Exception:
            logger.exception("a runner event failed unexpectedly")

    def cancel_requested(self, request_id: RequestId) -> None:
        """A request will be cancelled; it is recorded when that was."""
        self._services.engine.cancel_requested(request_id)

    async def call(self, method: str, scope: Scope, raw_params: bytes) -> Outcome:
        """Call any method, also one that takes time. An unknown one is ``method_not_found``."""
        if method in self._inline:
            outcome = self.call_inline(method, scope, raw_params)
        else:
            request = LibraryRequest(method, _NO_ARGUMENTS, scope.origin.request_id)
            _, result = await dispatch_async(self._async, _Call(scope, raw_params), request)
            outcome = _outcome(result, method)
        return await outcome if isinstance(outcome, asyncio.Future) else outcome


def _inline_method(name: str, handler: Handler, services: Services) -> Callable[[_Call], Result]:
    async def through(gate: Awaitable[None], scope: Scope, params: Any) -> Outcome:
        try:
            await gate
            return msgspec.json.encode(handler(services, scope, params))
        except Exception as error:  # noqa: BLE001 - as below
            return _error(error)

    def call(request: _Call) -> Result:
        try:
            params = decode_params(request.raw_params, METHODS[name].params)
            gate = policies.gate(services, request.scope, name, params)
            if gate is not None:
                return _success(asyncio.ensure_future(through(gate, request.scope, params)))
            return _success(handler(services, request.scope, params))
        except Exception as error:  # noqa: BLE001 - the one boundary between code and wire
            return _failure(error)

    return _with_signature(call)


def _async_method(
    name: str, handler: Handler, services: Services
) -> Callable[[_Call], Awaitable[Result]]:
    async def call(request: _Call) -> Result:
        try:
            params = decode_params(request.raw_params, METHODS[name].params)
            gate = policies.gate(services, request.scope, name, params)
            if gate is not None:
                await gate
            return _success(await handler(services, request.scope, params))
        except Exception as error:  # noqa: BLE001 - the one boundary between code and wire
            return _failure(error)

    return _with_signature(call)


def _with_signature(call: F) -> F:
    # The library asks for it with every call, and to find it out takes longer than the call.
    call.__signature__ = signature(call)  # type: ignore[attr-defined]  # as `inspect` documents
    return call


def _success(result: Any) -> Result:
    return Success(result if isinstance(result, asyncio.Future) else msgspec.json.encode(result))


def _failure(error: Exception) -> Result:
    problem = _error(error)
    return Error(problem.code, problem.message, problem)


def _error(error: Exception) -> CarError:
    if not isinstance(error, CarError):
        logger.error("a handler failed unexpectedly", exc_info=error)
        error = CarError(
            "internal", "this is a defect in car-rpc; its log on standard error says more"
        )
    return error


def _outcome(result: Any, method: str) -> Outcome | asyncio.Future[Outcome]:
    # jsonrpcserver returns oslash's Either: Right holds a success, Left an error.
    value = result._value if hasattr(result, "_value") else result._error
    if hasattr(value, "result"):
        outcome: bytes | asyncio.Future[Outcome] = value.result
        return outcome
    if isinstance(value.data, CarError):
        return value.data
    return unknown_method(method)


def unknown_method(method: str) -> CarError:
    """What a method is answered with that there is not."""
    return CarError("method_not_found", f"{method!r}; `initialize` lists the methods")
