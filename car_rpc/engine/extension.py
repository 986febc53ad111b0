"""Ask for more of an answer that ended too early, where the request wants that.

An answer that reached ``max_tokens`` is continued; one whose budget was all spent on reasoning is
asked for again without any. What cannot be got in this way changes nothing: the answer is as it
was, and says why it ended.
"""

from __future__ import annotations

from msgspec import UNSET

from car_rpc.engine.asked import Asked
from car_rpc.engine.attempts import Attempts
from car_rpc.engine.continuation import Continuation
from car_rpc.engine.output import Output
from car_rpc.engine.stream import Accumulator
from car_rpc.errors import CarError
from car_rpc.wire.events import Recovery, Stop, StopReason, StreamReset
from car_rpc.wire.models import ModelSchema

#: What a model is asked that cannot simply go on.
MAX_TOKENS_PROMPT = (
    "Your response was cut off because it exceeded the output token limit. Please break your work"
    " into smaller pieces. Continue from where you left off."
)

#: How a ``recovery`` event calls the two ways.
CONTINUE = "continue_max_tokens"
RETRY = "retry_without_thinking"

#: How an answer ends whose tokens were all spent before it began.
_SPENT = ("max_tokens", "thinking_truncated")


class Extension:
    """What is done about an answer that ended too early.

    Args:
        asked: What was asked.
        attempts: The attempts so far, and the way to make another.
        accumulator: The answer.
        output: Where its events go.
    """

    def __init__(
        self, asked: Asked, attempts: Attempts, accumulator: Accumulator, output: Output
    ) -> None:
        #: How often more was asked for.
        self.count = 0
        self._asked = asked
        self._attempts = attempts
        self._accumulator = accumulator
        self._output = output

    async def run(self, model: ModelSchema) -> None:
        """Ask the model that answered for more, as often as the request wants.

        Raises:
            CarError: ``cancelled``, by the app's own runner.
        """
        ended: StopReason = "max_tokens"
        try:
            if self._asked.request.thinking_recovery and self._thought_only(model):
                ended = "thinking_truncated"
                await self._ask_without_thinking(model)
                if self._said_nothing():
                    self._output.push(Stop(reason=ended))
            for _ in range(self._asked.request.max_tokens_continuations):
                if not self._was_cut(model):
                    break
                ended = "max_tokens"
                await self._ask_to_continue(model)
        except CarError as error:
            if error.kind == "cancelled":
                raise
            self._output.pass_on(self._accumulator.cancel_open_calls(error.kind))
            self._output.push(Stop(reason=ended))

    def _said_nothing(self) -> bool:
        answer = self._accumulator
        return answer.stop_reason in _SPENT and not answer.text and not answer.tool_calls()

    def _thought_only(self, model: ModelSchema) -> bool:
        """Whether the model might have answered, had it not been free to think first."""
        mode = self._asked.request.params.thinking
        return (
            mode in (UNSET, "auto")
            and bool(self._accumulator.reasoning)
            and self._said_nothing()
            and self._attempts.may_say_more(model)
        )

    def _was_cut(self, model: ModelSchema) -> bool:
        """Whether there is a text to go on with; behind whole calls the model waits for results."""
        snapshot = self._accumulator.snapshot()
        return (
            self._accumulator.stop_reason == "max_tokens"
            and not snapshot.completed_tool_calls
            and isinstance(snapshot.text, str)
            and self._attempts.can_continue(snapshot.text, model)
        )

    async def _ask_without_thinking(self, model: ModelSchema) -> None:
        self._asked = self._asked.with_params(thinking="off")
        self._announce("thinking_truncated", RETRY, may_repeat=False)
        self._output.push(StreamReset(reason="the model only thought"))
        self._attempts.start_again(self._asked, reason=RETRY)
        await self._attempts.run([model])

    async def _ask_to_continue(self, model: ModelSchema) -> None:
        answer = self._accumulator
        self._output.pass_on(answer.cancel_open_calls("max_tokens"))
        self._announce("max_tokens", CONTINUE, may_repeat=True)
        so_far = Continuation(answer.text, answer.reasoning)
        self._attempts.go_on(so_far, MAX_TOKENS_PROMPT, reason=CONTINUE)
        await self._attempts.run([model])

    def _announce(self, cause: str, plan: str, *, may_repeat: bool) -> None:
        self.count += 1
        attempt = self._attempts.next_number
        recovery = Recovery(cause=cause, plan=plan, attempt=attempt)
        self._output.recovers(recovery, may_repeat=may_repeat)
