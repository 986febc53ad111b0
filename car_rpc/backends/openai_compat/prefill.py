"""Let a server go on from the beginning of an answer, which it is given as a last turn. Pure.

OpenAI's API has no such thing; other servers have, each in its own way:
:class:`~car_rpc.wire.models.OpenAICompatSource` tells which.
"""

from __future__ import annotations

from itertools import takewhile

from car_rpc.backends.openai_compat.messages import Json
from car_rpc.engine.continuation import Continuation
from car_rpc.wire.events import StreamEvent, TextDelta
from car_rpc.wire.models import Prefill

#: Members of the body, or of the last turn, that tell a server to leave that turn open.
_BODY: dict[Prefill, Json] = {
    "continue_final_message": {"continue_final_message": True, "add_generation_prompt": False}
}
_TURN: dict[Prefill, Json] = {"prefix": {"prefix": True}}


class Beginning:
    """The beginning of an answer, and what the server adds to it.

    Templates and servers drop or refuse white space at the end of a last turn, so none is sent. A
    model then says it again, which is left out here.

    Args:
        continuation: The beginning; ``None`` when the answer begins anew.
    """

    def __init__(self, continuation: Continuation | None) -> None:
        text, self._reasoning, _ = continuation or Continuation("", "")
        self._sent = text.rstrip()
        self._again = text[len(self._sent) :]

    def added_to(self, body: Json, prefill: Prefill) -> Json:
        """The body of a request whose answer begins so."""
        if not self._sent:
            return body
        turn: Json = {"role": "assistant", "content": self._sent, **_TURN.get(prefill, {})}
        more = _BODY.get(prefill, {})
        if self._reasoning:
            # It has thought already. llama-server refuses such a turn of a model that is to think,
            # and vLLM would take the rest of the answer for more thoughts.
            turn["reasoning_content"] = self._reasoning
            more = {**more, "chat_template_kwargs": {"enable_thinking": False}}
        return {**body, "messages": [*body["messages"], turn], **more}

    def joined(self, event: StreamEvent) -> StreamEvent:
        """The server's next event, as it follows what there is."""
        if not self._again or not isinstance(event, TextDelta):
            return event
        pairs = zip(self._again, event.text, strict=False)
        again = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        self._again = self._again[again:] if again == len(event.text) else ""
        return TextDelta(text=event.text[again:])
