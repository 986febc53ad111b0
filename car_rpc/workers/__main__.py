"""``python -m car_rpc.workers ENGINE``: one worker process, started by the core."""

from __future__ import annotations

from car_rpc.transport.claim import Claimed, claim_stdio

_ENGINES = {
    "fake": "car_rpc.workers.fake",
    "hub": "car_rpc.workers.hub.engine",
    "llama_cpp": "car_rpc.workers.llama_cpp.engine",
    "mlx": "car_rpc.workers.mlx.engine",
    "pocketsphinx": "car_rpc.workers.speech.engine",
}

#: EX_USAGE of sysexits.h.
_EXIT_USAGE = 64

#: <sys/prctl.h>
_PR_SET_PDEATHSIG = 1


def main() -> None:
    """Claim the standard streams, then run the engine that the command line names."""
    claimed = claim_stdio()
    _run(claimed)


def _run(claimed: Claimed) -> None:
    # Imports wait until here: what is imported before the claim could print into the wire.
    import signal  # noqa: PLC0415 - see above
    import sys  # noqa: PLC0415 - see above
    from importlib import import_module  # noqa: PLC0415 - see above

    module = _ENGINES.get(sys.argv[1] if len(sys.argv) > 1 else "")
    if module is None:
        sys.stderr.write(f"usage: python -m car_rpc.workers {{{'|'.join(_ENGINES)}}}\n")
        sys.exit(_EXIT_USAGE)
    # Ctrl-C goes to the whole process group; when the worker ends is the core's decision.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if sys.platform == "linux":
        _die_with_parent()

    from car_rpc.workers.runtime import Runtime  # noqa: PLC0415 - see above

    Runtime(claimed, lambda: import_module(module).make_engine()).run()


def _die_with_parent() -> None:
    """Let the kernel kill this process with the core, also where another holds the pipe open."""
    import ctypes  # noqa: PLC0415 - after the claim
    import signal  # noqa: PLC0415 - after the claim

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


if __name__ == "__main__":
    main()
