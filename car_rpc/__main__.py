"""Entry point: claims the wire before anything else is imported when it is going to serve."""

from __future__ import annotations

import os
import sys
import time

from car_rpc.transport.claim import Claimed, claim_stdio


def main() -> None:
    """Run the command line; ends the process."""
    started = time.monotonic()
    claimed = claim_stdio() if _will_serve(sys.argv[1:]) else None
    sys.exit(_run(sys.argv[1:], claimed, started))


def _run(arguments: list[str], claimed: Claimed | None, started: float) -> int:
    if claimed is None:
        from car_rpc.cli import run_command

        return run_command(arguments)
    from car_rpc.host.bootstrap import Bootstrap, can_bootstrap, exit_on_signals

    exit_on_signals()
    bootstrap = Bootstrap(claimed, started)
    if can_bootstrap(arguments, claimed):
        bootstrap.import_core()
    from car_rpc.cli import serve

    exit_code = serve(arguments, claimed, bootstrap)
    # Threads may still block in a read; nothing is left that could be lost.
    os._exit(exit_code)


def _will_serve(arguments: list[str]) -> bool:
    """``car-rpc serve``, or no command at all while stdin is not a terminal."""
    if arguments and not arguments[0].startswith("-"):
        return arguments[0] == "serve" and not {"-h", "--help"} & set(arguments)
    if {"-h", "--help", "--version"} & set(arguments):
        return False
    return not os.isatty(0)


if __name__ == "__main__":
    main()
