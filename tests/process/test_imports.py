"""The core is light, and the handshake waits for nothing that it does not need."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from tests.process.conftest import ROOT, WAIT_S, Gate, StartCore, event, wait_until

pytestmark = pytest.mark.process

#: Libraries of models, templates and upstream servers: the core loads none of them.
HEAVY = {
    *("gguf", "httpx", "huggingface_hub", "jinja2", "llama_cpp", "mlx", "mlx_lm", "numpy"),
    *("safetensors", "tokenizers", "torch", "transformers"),
}
#: What the dispatcher needs and the handshake does not.
LATER = {"jsonrpcserver", "sqlite3", "car_rpc.host.wiring"}


def imported_by(module: str) -> set[str]:
    program = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    output = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, cwd=ROOT, timeout=WAIT_S, check=True
    ).stdout
    return set(json.loads(output))


def test_the_host_imports_no_library_of_models() -> None:
    server = imported_by("car_rpc.host.server")
    assert not server & (HEAVY | LATER)
    assert not imported_by("car_rpc.host.wiring") & HEAVY
    assert not {name for name in server if name.startswith("car_rpc.workers")}


def test_the_engine_brings_no_server_of_http_no_mail_and_no_validator_of_schemas() -> None:
    left_out = {"email", "html", "http.server", "jsonschema"}
    assert not imported_by("car_rpc.host.wiring") & left_out


def test_commands_import_nothing_of_the_process_that_they_start() -> None:
    theirs = ("car_rpc.backends", "car_rpc.engine", "car_rpc.host", "car_rpc.spec")
    imported = imported_by("car_rpc.cli.commands")
    assert "car_rpc.client.api" in imported
    assert not [name for name in imported if name.startswith(theirs)]


@pytest.mark.mlx
def test_a_worker_for_mlx_does_not_wait_for_the_tokenizers_of_others() -> None:
    pytest.importorskip("mlx_lm")
    imported = imported_by("car_rpc.workers.mlx.engine")
    assert "mlx_lm.generate" in imported
    assert not {name.partition(".")[0] for name in imported} & {"torch", "transformers"}
    later = imported_by("car_rpc.workers.mlx.engine, transformers.tokenization_utils_base")
    assert "transformers.utils" in later, "whoever wants them still gets them"


def test_serving_a_model_imports_no_library_of_models(start_core: StartCore) -> None:
    core = start_core(env={"PYTHONPROFILEIMPORTTIME": "1"})
    core.initialize()
    core.fake("t/echo:1", event("x"))
    core.response(core.generate("t/echo:1"))
    core.close_stdin()
    assert core.wait() == 0
    lines = [line for line in core.stderr().splitlines() if line.startswith("import time:")]
    imported = {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}
    assert "msgspec" in imported
    assert not imported & HEAVY


def test_the_handshake_and_pings_do_not_wait_for_the_engine(
    start_core: StartCore, make_gate: Callable[[str], Gate]
) -> None:
    gate = make_gate("jsonrpcserver")
    core = start_core(env=gate.env)
    core.initialize()
    waiting = core.ask("models.list")
    wait_until(gate.reached)
    assert core.ping()["startup_ms"].keys() == {"modules", "ready", "initialize"}
    assert core.responses(waiting) == 0
    gate.open()
    assert core.response(waiting)["result"]["models"]
    assert "engine" in core.ping()["startup_ms"]


def test_the_handshake_and_pings_do_not_wait_for_the_imports_of_the_core(
    start_core: StartCore, make_gate: Callable[[str], Gate]
) -> None:
    gate = make_gate("ssl")
    core = start_core(env=gate.env)
    core.ask("ping", request_id=1)
    core.ask("initialize", {"protocol_version": 1}, 2)
    first, second = core.response(1)["result"], core.response(2)["result"]
    assert first == {"in_flight": 1, "startup_ms": {}}
    wait_until(gate.reached)
    later = core.ask("ping")
    gate.open()
    assert core.response(later)["result"]["startup_ms"].keys() >= {"initialize"}
    core.fake("t/echo:1", {"echo": True})  # recorded behind the session's start
    (started,) = core.call("eventlog.query", {"types": ["session_start"]})["events"]
    assert started["session_id"] == second["session_id"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_during_the_imports_of_the_core_ends_it_with_the_usual_exit_code(
    start_core: StartCore, make_gate: Callable[[str], Gate], number: signal.Signals
) -> None:
    gate = make_gate("ssl")
    core = start_core(env=gate.env)
    core.initialize()
    wait_until(gate.reached)
    core.process.send_signal(number)
    assert core.wait() == 128 + number
    assert len(core.ended_output()) == 1


def test_the_end_of_the_input_during_the_imports_of_the_core_ends_it(
    start_core: StartCore, make_gate: Callable[[str], Gate]
) -> None:
    gate = make_gate("ssl")
    core = start_core(env=gate.env)
    core.initialize()
    waiting = core.ask("models.list")
    wait_until(gate.reached)
    core.close_stdin()
    gate.open()
    assert core.wait() == 0
    assert core.response(waiting)["result"]["models"]


def test_nothing_but_the_claim_is_imported_before_the_claim() -> None:
    before = imported_by("car_rpc.__main__") - imported_by("os")
    ours = {name for name in before if name.startswith("car_rpc")}
    claim = {"car_rpc.__main__", "car_rpc.transport", "car_rpc.transport.claim"}
    assert ours == {"car_rpc"} | claim
    assert {name.partition(".")[0] for name in before - ours} <= sys.stdlib_module_names
