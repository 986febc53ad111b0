"""Who has a model without its file learns why, and what to do."""

import msgspec
from msgspec import UNSET

from car_rpc.cli.remedies import remedies
from car_rpc.testing import scripted_model
from car_rpc.wire.models import LocalSource, ModelSchema, ModelSource


def missing(source: ModelSource) -> ModelSchema:
    model = scripted_model("me/mine:1", [])
    return msgspec.structs.replace(
        model, source=source, reason="it is not there", trust_tier="community"
    )


def test_it_says_what_is_missing_and_what_to_do() -> None:
    why, what = remedies([missing(LocalSource(path="/gone/m.gguf"))])
    assert why == "me/mine:1: it is not there"
    assert "register the model again" in what
    assert 'car-rpc call models.unregister \'{"model": "me/mine:1"}\'' in what
    _, what = remedies([missing(LocalSource(hf_repo="acme/m", hf_filename="m.gguf"))])
    assert what.strip() == "car-rpc models pull me/mine:1"


def test_nothing_is_said_of_models_that_are_here_or_only_in_the_catalog() -> None:
    here = msgspec.structs.replace(
        missing(LocalSource(path="/x")), weights_ready=True, reason=UNSET
    )
    listed = msgspec.structs.replace(missing(LocalSource(path="/x")), trust_tier="curated")
    assert list(remedies([here, listed])) == []


def test_a_model_that_answers_and_does_not_see_is_told_of() -> None:
    here = msgspec.structs.replace(missing(LocalSource(path="/x")), weights_ready=True)
    why, what = remedies([here])
    assert why == "me/mine:1: it is not there"
    assert "mmproj_path" in what
