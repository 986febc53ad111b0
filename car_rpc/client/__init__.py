"""The Python client: spawn the process, call its methods, run its delegated models.

    async with CarClient.start() as car:
        async with car.stream(prompt="Hello!") as stream:
            async for event in stream:
                ...
            result = await stream.result()

Everything is cancelled in the usual way of anyio: leaving a ``stream`` block early, or
cancelling the scope around a call, cancels the request in the core.
"""

from car_rpc.client.api import SERVE, CarClient
from car_rpc.client.approvals import Approve
from car_rpc.client.errors import ProcessEnded, RemoteError, RunnerFailure
from car_rpc.client.runner import Runner, RunnerRun
from car_rpc.client.stream import GenerateStream, LogStream

__all__ = [
    "SERVE",
    "Approve",
    "CarClient",
    "GenerateStream",
    "LogStream",
    "ProcessEnded",
    "RemoteError",
    "Runner",
    "RunnerFailure",
    "RunnerRun",
]
