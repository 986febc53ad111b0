"""What commands share: how they start the process, and their exit codes."""

from __future__ import annotations

import argparse
from contextlib import AbstractAsyncContextManager

from car_rpc.client import CarClient

#: Exit codes: the request failed; the command line was wrong; Ctrl-C (128 + SIGINT).
FAILED = 1
USAGE = 2
INTERRUPTED = 130


def start(options: argparse.Namespace) -> AbstractAsyncContextManager[CarClient]:
    """The process, as an app would start it, with the options that all commands have."""
    arguments = ["--log-level", "warning"]
    if options.state_dir:
        arguments += ["--state-dir", str(options.state_dir)]
    if options.models_dir:
        arguments += ["--models-dir", str(options.models_dir)]
    if options.config:
        arguments += ["--config", str(options.config)]
    for path in options.allow_path:
        arguments += ["--allow-path", str(path)]
    return CarClient.start(arguments=arguments, stderr=None)
