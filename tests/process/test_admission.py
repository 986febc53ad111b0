"""Local models take turns in a real process."""

import pytest

from car_rpc.engine.admission import MODEL_SLOTS, AdmissionPolicy
from car_rpc.registry.hardware import memory_total_bytes
from tests.process.conftest import Core, StartCore, request

pytestmark = [pytest.mark.process, pytest.mark.llama]

CHAT, EMBED = "demo/tiny-chat:gguf", "demo/tiny-embed:gguf"
ONE = {"CAR_INFERENCE_MAX_CONCURRENT": "1"}


def generates(count: int, **params: object) -> list[dict[str, object]]:
    asked = {"model": CHAT, "prompt": "Hello", "params": {"max_tokens": 8, **params}}
    return [request(number, "generate", {**asked, "recovery": "none"}) for number in range(count)]


def idle(core: Core) -> None:
    status = core.call("admission.status")
    assert (status["permits_in_use"], status["running"], status["queued"]) == (0, 0, 0)
    assert status["permits_available"] == status["permits_total"]


def test_who_is_waited_for_goes_before_the_background(start_core: StartCore) -> None:
    core = start_core(env=ONE)
    core.initialize()
    embed = request("embed", "embed", {"model": EMBED, "texts": ["x"]})
    core.send(*generates(12, workload="background"), embed)
    embedded = core.response("embed")
    assert "result" in embedded
    answers = [core.response(number) for number in range(12)]
    assert all("result" in answer for answer in answers)
    # At most those of the one batch that ran already.
    assert sum(core.index(answer) < core.index(embedded) for answer in answers) <= MODEL_SLOTS
    assert core.call("admission.status")["env_override"] == 1
    idle(core)


def test_a_full_queue_is_overload_with_a_hint(start_core: StartCore) -> None:
    core = start_core(env={**ONE, "CAR_INFERENCE_MAX_QUEUED": "1"})
    core.initialize()
    # The model is still being loaded when the last of them comes.
    core.send(*generates(12))
    answers = [core.response(number) for number in range(12)]
    errors = [answer["error"]["data"] for answer in answers if "error" in answer]
    assert len(errors) == 12 - (MODEL_SLOTS + 1)
    assert {error["kind"] for error in errors} == {"overloaded"}
    assert all(error["retry_after_ms"] > 0 and error["retryable"] for error in errors)
    idle(core)


def test_memory_says_how_many_may_work_where_nobody_else_does(start_core: StartCore) -> None:
    core = start_core()
    core.initialize()
    status = core.call("admission.status")
    assert status["permits_total"] == AdmissionPolicy().permits(memory_total_bytes())
    assert status["env_override"] is None
