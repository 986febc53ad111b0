"""What helps when a worker fails, which the worker itself does not know."""

from __future__ import annotations

import msgspec

from car_rpc.wire.worker import Failed, Load, Loaded, Reply


def advised(
    answer: Reply | Failed, load: Load, loaded: Loaded | None, *, generates: bool
) -> Reply | Failed:
    """An overflow with what else helps: a larger entry where that is the limit, or more memory.

    Args:
        answer: What the worker answered.
        load: How its model was to be loaded.
        loaded: How it was.
        generates: Whether that is the answer to a generation. All else has limits of its own
            beside the context, and takes no more memory for longer texts.
    """
    if not isinstance(answer, Failed) or answer.kind != "context_overflow" or loaded is None:
        return answer
    limit, trained = int(answer.data.get("context_length", 0)), loaded.context_trained
    if limit >= trained:
        return answer
    if load.context_length is not None or loaded.context_is_fixed:
        if limit != loaded.context_length:
            return answer
        advice = "register the model with a larger `context_length`"
    elif generates:
        advice = "unload other models or close other programs, as memory is short"
    else:
        return answer
    advice = f", or {advice}: it was trained on {trained} tokens"
    return msgspec.structs.replace(answer, detail=answer.detail + advice)
