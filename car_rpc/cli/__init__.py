"""The command line: serve an app, or try things out in a terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.cli.parser import make_parser, settings

if TYPE_CHECKING:
    from collections.abc import Sequence

    from car_rpc.host.bootstrap import Bootstrap
    from car_rpc.transport.claim import Claimed


def serve(arguments: Sequence[str], claimed: Claimed, bootstrap: Bootstrap) -> int:
    """Serve over the claimed streams; returns the exit code."""
    arguments = arguments if arguments[:1] == ["serve"] else ["serve", *arguments]
    options = make_parser().parse_args(arguments)
    from car_rpc.host.server import run  # noqa: PLC0415 - only to serve

    return run(settings(options), claimed, bootstrap)


def run_command(arguments: Sequence[str]) -> int:
    """Run any other command; returns the exit code."""
    parser = make_parser()
    options = parser.parse_args(arguments)
    if options.command is None:
        parser.print_help()
        return 2
    from car_rpc.cli.commands import run  # noqa: PLC0415 - not to serve

    return run(options)
