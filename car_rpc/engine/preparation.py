"""What a request lacks for the model that is to run it. Pure.

Only the model sees it: the log keeps the request as it came.
"""

from __future__ import annotations

from msgspec import UNSET

from car_rpc.engine.asked import Asked
from car_rpc.router.complexity import assess
from car_rpc.wire.inference import GenerateRequest
from car_rpc.wire.models import ModelSchema
from car_rpc.wire.script import last_user_text

#: What a model may think about a complex request, in tokens, when nobody said how much.
AUTO_THINKING_TOKENS = 8000

#: The parameter that models support which can be told how much to think.
EXTENDED_THINKING = "extended_thinking"

#: Agents often end with a call of ``done`` that says no more than that they are.
DONE_NOTE = (
    "\n\nIMPORTANT: When calling the `done` tool, the `result` field MUST contain a DETAILED"
    " summary of everything you found and did. This is the ONLY output the user sees. Do NOT just"
    " say 'completed' — include specific findings, data, and conclusions."
)


def prepared(asked: Asked, model: ModelSchema) -> Asked:
    """A request as it goes to a model: the same, unless something is to be added.

    A complex request gets a thinking budget, where the model can be given one and the client said
    nothing of thinking. With a tool named ``done`` the model is told what to put into it.
    """
    if _may_think_more(asked.request, model):
        asked = asked.with_params(budget_tokens=AUTO_THINKING_TOKENS)
    if isinstance(asked.request.tools, list) and any(
        tool.function.name == "done" for tool in asked.request.tools
    ):
        context = (asked.request.context or "") + DONE_NOTE
        asked = asked.reworded({**asked.members(), "context": context})
    return asked


def _may_think_more(request: GenerateRequest, model: ModelSchema) -> bool:
    params = request.params
    return (
        not params.budget_tokens
        and params.thinking != "off"
        and EXTENDED_THINKING in model.supported_params
        and assess(_question(request)) == "complex"
    )


def _question(request: GenerateRequest) -> str:
    if isinstance(request.prompt, str):
        return request.prompt
    return "" if request.messages is UNSET else last_user_text(request.messages)
