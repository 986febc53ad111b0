"""The server behind a model, whichever source names it. Pure."""

from __future__ import annotations

import msgspec

from car_rpc.errors import CarError
from car_rpc.wire.models import ModelSchema, OllamaSource, OpenAICompatSource, VllmMlxSource


def upstream_of(model: ModelSchema) -> OpenAICompatSource:
    """Where the model is served, in the one form that the backend works with.

    Raises:
        CarError: ``internal`` for a source that no such server has.
    """
    match model.source:
        case OpenAICompatSource() as source:  # and what extends it
            return msgspec.structs.replace(source, endpoint=base_of(source.endpoint))
        case OllamaSource(host=host, model_tag=model_tag):
            return OpenAICompatSource(endpoint=base_of(host), model=model_tag)
        case VllmMlxSource(endpoint=endpoint, model_name=model_name):
            return OpenAICompatSource(endpoint=base_of(endpoint), model=model_name)
        case _:
            raise CarError("internal", "a model reached a backend that does not serve its source")


def base_of(endpoint: str) -> str:
    """The address without ``/v1``; who writes it all the same means the same."""
    return endpoint.rstrip("/").removesuffix("/v1").rstrip("/")
