"""``classify``, ``rerank`` and ``ground`` on the real process, real model and app included."""

import base64
import json

import pytest

from tests.process.conftest import Core

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]

DOCUMENTS = ["The lamp costs 20 dollars.", "Paris is the capital of France.", "I like cheese."]


def test_documents_are_ordered_by_the_reranker_that_ships(core: Core) -> None:
    params = {"query": "What is the capital of France?", "documents": DOCUMENTS, "top_n": 2}
    result = core.call("rerank", params)
    assert result["model_used"] == "demo/tiny-rerank:gguf"
    best, second = result["ranked"]
    assert (best["index"], best["document"]) == (1, DOCUMENTS[1])
    assert best["score"] > 0.9 > second["score"]
    (request,) = core.call("eventlog.query", {"types": ["request"]})["events"]
    assert (request["data"]["method"], request["data"]["params"]) == ("rerank", params)


def test_texts_are_classified_in_both_ways(core: Core) -> None:
    params = {"text": "I love this film.", "labels": ["negative", "positive"]}
    results = {
        method: core.call("classify", {**params, "method": method})
        for method in ("auto", "generate")
    }
    assert results["auto"]["method"] == "likelihood"
    for result in results.values():
        assert result["results"][0]["label"] == "positive"
        assert sum(each["score"] for each in result["results"]) == pytest.approx(1.0)


def test_a_file_outside_the_allowed_paths_is_never_looked_at(core: Core) -> None:
    source = {"type": "path", "path": "/etc/hostname"}
    params = {"image": {"type": "image", "source": source}, "prompt": "a name"}
    error = core.response(core.ask("ground", params))["error"]
    assert error["data"]["kind"] == "policy_denied"


def test_an_app_s_own_model_finds_things_in_an_image(core: Core) -> None:
    core.call("runner.register", {})
    image = core.state_dir / "cat.png"
    image.write_bytes(b"\x89PNG")
    model = {
        "id": "acme/sees:1",
        "source": {"type": "delegated"},
        "capabilities": ["generate", "vision", "grounding"],
    }
    core.call("models.register", {"model": model})
    source = {"type": "path", "path": str(image)}
    asked = core.ask("ground", {"image": {"type": "image", "source": source}, "prompt": "cat"})
    run = core.wait_for(lambda m: m.get("method") == "runner.run")
    (sent,) = run["params"]["request"]["images"]
    assert base64.b64decode(sent["source"]["data"]) == b"\x89PNG"
    answer = [{"bbox_2d": [1, 2, 3, 4], "label": "cat"}]
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": json.dumps(answer)}})
    result = core.response(asked)["result"]
    box = {"x_min": 1.0, "y_min": 2.0, "x_max": 3.0, "y_max": 4.0, "unit": "pixel", "label": "cat"}
    assert result == {"boxes": [box], "raw_text": json.dumps(answer), "model_used": "acme/sees:1"}
    request = {"prompt": "cat", "model": "acme/sees:1"}
    asked = core.ask("generate", request)
    run = core.wait_for(lambda m: m.get("method") == "runner.run" and m["id"] != run["id"])
    core.send({"jsonrpc": "2.0", "id": run["id"], "result": {"text": json.dumps(answer)}})
    assert core.response(asked)["result"]["bounding_boxes"] == [box]
