"""What helps when a worker fails, which only the model's entry can bring about."""

from __future__ import annotations

import msgspec

from car_rpc.wire.worker import Failed, Loaded, Reply


def advised(answer: Reply | Failed, loaded: Loaded | None) -> Reply | Failed:
    """An overflow with what else helps: more context, where the model's entry can ask for it."""
    if not isinstance(answer, Failed) or answer.kind != "context_overflow" or loaded is None:
        return answer
    is_of_entry = answer.data.get("context_length") == loaded.context_length
    if not is_of_entry or loaded.context_length >= loaded.context_trained:
        return answer
    advice = (
        ", or register the model with a larger `context_length`:"
        f" it was trained on {loaded.context_trained} tokens"
    )
    return msgspec.structs.replace(answer, detail=answer.detail + advice)
