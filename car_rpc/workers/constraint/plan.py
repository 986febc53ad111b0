"""From a request to what its answer must be like."""

from __future__ import annotations

from typing import TYPE_CHECKING

from car_rpc.workers.constraint.calls import demanded_calls, offered_calls, other_calls
from car_rpc.workers.constraint.constraint import Plan
from car_rpc.workers.constraint.grammar import grammar_of

if TYPE_CHECKING:
    from car_rpc.wire.worker import Generate
    from car_rpc.workers.constraint.vocabulary import GuideVocabulary
    from car_rpc.workers.text.calls.families import Family


def make_plan(request: Generate, family: Family, vocabulary: GuideVocabulary, backend: str) -> Plan:
    """What the answer to a request must be like.

    Args:
        request: The request, whose tools are right (:mod:`~car_rpc.workers.constraint.tools`).
        family: How the model writes.
        vocabulary: Its vocabulary.
        backend: Name of the engine, for errors.

    Raises:
        CarError: The form cannot be enforced (``unsupported_mode``) or is wrong
            (``invalid_request``).
    """
    if request.must_call:
        calls = demanded_calls(request, family, vocabulary)
        return Plan(vocabulary, calls=calls, from_header=family.channels)
    offer = offered_calls(request, family, vocabulary)
    form = request.response_format
    if form is None:
        return Plan(vocabulary, offer=offer)
    grammar = grammar_of(form, vocabulary, backend)
    calls = other_calls(request, family, vocabulary)
    return Plan(vocabulary, form, grammar, calls, offer)
