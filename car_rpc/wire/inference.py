"""Parameters and results of the inference methods."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeAlias

from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, Positive, RequestId, UnitInterval, WireStruct
from car_rpc.wire.content import ContentBlock, Message, Tool, ToolCall
from car_rpc.wire.events import StopReason, StreamEvent
from car_rpc.wire.routing import IntentHint
from car_rpc.wire.tasks import BoundingBox

#: Most times that one answer is continued after ``max_tokens``.
MAX_CONTINUATIONS = 16

Workload: TypeAlias = Literal["interactive", "background", "batch", "local_preferred", "fast"]
ThinkingMode: TypeAlias = Literal["auto", "on", "off"]
PrivacyLevel: TypeAlias = Literal["metadata", "redacted", "full"]
Seed: TypeAlias = int | Annotated[str, Meta(pattern=r"^-?[0-9]{1,20}(?![\s\S])")]


class GenerateParams(WireStruct, frozen=True, kw_only=True):
    """How to sample. What the client did not set stays absent everywhere it is forwarded.

    Attributes:
        temperature: Softmax temperature; 0 is greedy. Local default 0.7.
        top_p: Nucleus sampling mass. Local default 0.95.
        top_k: Keep the k likeliest tokens; 0 switches it off.
        min_p: Keep tokens at least this fraction as likely as the likeliest.
        max_tokens: Most tokens to generate; local models use the room left when absent.
        stop: Strings that end the answer and never appear in it.
        seed: Seed of the sampler, as an integer or a decimal string.
        thinking: Whether the model may reason before it answers.
        budget_tokens: Most reasoning tokens; 0 means no budget.
        workload: What the router optimises for.
        tool_choice: ``auto``, ``none``, ``required`` or the name of a tool.
        parallel_tool_calls: Whether one answer may hold several tool calls.
        presence_penalty: OpenAI's penalty on tokens that already occurred.
        frequency_penalty: OpenAI's penalty by number of occurrences.
        repeat_penalty: llama.cpp's multiplicative penalty; 1 switches it off.
        logit_bias: Added to the logits, by token id.
        logprobs: How many alternatives to report per token.
        reasoning_effort: Forwarded to providers that know it.
        ignore_eos: Run to ``max_tokens`` or the end of the context (for measurements).
    """

    temperature: Annotated[float, Meta(ge=0.0, le=100.0)] | UnsetType = UNSET
    top_p: UnitInterval | UnsetType = UNSET
    top_k: NonNegative | UnsetType = UNSET
    min_p: UnitInterval | UnsetType = UNSET
    max_tokens: Positive | UnsetType = UNSET
    stop: Annotated[list[Annotated[str, Meta(min_length=1)]], Meta(max_length=64)] | UnsetType = (
        UNSET
    )
    seed: Seed | UnsetType = UNSET
    thinking: ThinkingMode | UnsetType = UNSET
    budget_tokens: NonNegative | UnsetType = UNSET
    workload: Workload | UnsetType = UNSET
    tool_choice: str | dict[str, Any] | UnsetType = UNSET
    parallel_tool_calls: bool | UnsetType = UNSET
    presence_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | UnsetType = UNSET
    frequency_penalty: Annotated[float, Meta(ge=-2.0, le=2.0)] | UnsetType = UNSET
    repeat_penalty: Annotated[float, Meta(gt=0.0, le=100.0)] | UnsetType = UNSET
    logit_bias: dict[str, float] | UnsetType = UNSET
    logprobs: Annotated[int, Meta(ge=0, le=20)] | UnsetType = UNSET
    reasoning_effort: str | UnsetType = UNSET
    ignore_eos: bool | UnsetType = UNSET


class JsonSchemaFormat(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="json_schema"):
    """The answer must match a JSON Schema.

    Attributes:
        schema: The JSON Schema.
        strict: Forwarded to providers that know it.
        name: Name of the schema, for providers that want one.
    """

    schema: dict[str, Any]
    strict: bool | UnsetType = UNSET
    name: str | UnsetType = UNSET


class JsonObjectFormat(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="json_object"):
    """The answer must be a JSON object."""


class RegexFormat(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="regex"):
    """The answer as a whole must match a regular expression.

    Attributes:
        pattern: The regular expression. Digits and letters of words are those of ASCII;
            look-around and references to groups are refused.
    """

    pattern: str


class GrammarFormat(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="grammar"):
    """The answer must be in the language of a grammar.

    Attributes:
        syntax: Language that the grammar is written in.
        grammar: The grammar.
    """

    syntax: Literal["lark", "gbnf"]
    grammar: str


ResponseFormat: TypeAlias = JsonSchemaFormat | JsonObjectFormat | RegexFormat | GrammarFormat


class GenerateRequest(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``generate``. One of ``prompt`` and ``messages`` is required.

    Attributes:
        prompt: A single user turn; comes after ``messages`` when both are given.
        messages: The conversation so far.
        context: Extra system text.
        model: Id or name of a model; absent means the preferred or best one.
        params: How to sample.
        tools: Tools that the model may call.
        images: Media that belong to the last user turn.
        response_format: A form that the answer must have; enforced or refused.
        cache_control: Whether a provider may cache the prompt.
        intent: Hints for the router.
        client_ref: Opaque to the core; echoed in events and result.
        conversation_id: Groups the requests of one conversation in the log.
        timeout_ms: Total time limit in milliseconds.
        recovery: How far the core may go when an attempt fails: ``none``, ``retry`` (the same
            model), ``fallback`` (other models, too) or ``resume``, the default, which also
            continues an answer that broke in its middle.
        max_tokens_continuations: How often a model may be asked to go on with a text that reached
            ``max_tokens``, each time for up to ``max_tokens`` more. What comes is added to the
            text; where nothing more is to be had, the answer stays as it was, with
            ``stop_reason: max_tokens``.
        thinking_recovery: Whether a model that was free to think (``thinking: auto``) and spent
            all its tokens on that is asked once more, without thinking. If that gives no text
            either, the answer is empty, with ``stop_reason: thinking_truncated``.
        overflow: What to do with a prompt that does not fit.
        privacy: How much of this request the event log keeps: ``metadata`` (sizes and salted
            hashes), ``redacted`` (what was said, with secrets replaced) or ``full`` (what was
            said; values under the names of secrets, such as ``api_key``, are replaced still).
            The default is the configuration's ``[privacy] level``.
        resume_trace_id: A request that did not get its result: go on from what the event log
            holds of it. What is not given here is as it was there.
        keep_alive_ms: How long the model stays loaded afterwards, in milliseconds.
        prefix_cache: Whether a local model may reuse the beginning of an earlier prompt.
        progress_token: Asks for ``$/progress`` notifications that carry it.
        stream: Whether ``generate.event`` notifications come before the response.
    """

    prompt: str | UnsetType = UNSET
    messages: list[Message] | UnsetType = UNSET
    context: str | UnsetType = UNSET
    model: str | UnsetType = UNSET
    params: GenerateParams = GenerateParams()
    tools: list[Tool] | UnsetType = UNSET
    images: list[ContentBlock] | UnsetType = UNSET
    response_format: ResponseFormat | UnsetType = UNSET
    cache_control: bool | UnsetType = UNSET
    intent: IntentHint | UnsetType = UNSET
    client_ref: str | UnsetType = UNSET
    conversation_id: str | UnsetType = UNSET
    timeout_ms: Positive | UnsetType = UNSET
    recovery: Literal["none", "retry", "fallback", "resume"] | UnsetType = UNSET
    max_tokens_continuations: Annotated[int, Meta(ge=0, le=MAX_CONTINUATIONS)] = 0
    thinking_recovery: bool = False
    overflow: Literal["error", "truncate"] = "error"
    privacy: PrivacyLevel | UnsetType = UNSET
    resume_trace_id: str | UnsetType = UNSET
    keep_alive_ms: NonNegative | UnsetType = UNSET
    prefix_cache: bool = True
    progress_token: int | str | UnsetType = UNSET
    stream: bool = False


class Usage(WireStruct, frozen=True, kw_only=True):
    """Token counts of a request, its attempts together; null where the backend did not say.

    Attributes:
        prompt_tokens: Tokens of the prompt.
        completion_tokens: Tokens of the answer, reasoning included.
        total_tokens: Both together.
        context_window: Tokens that the model has room for.
        cache_read_tokens: Tokens of the prompt that came from a cache.
        cache_creation_tokens: Tokens of the prompt that were put into a cache.
        thinking_tokens: Tokens of the reasoning.
        draft_tokens: Tokens that were guessed before the model said them; see ``speculation`` of
            the source ``local``.
        accepted_draft_tokens: How many of these it then said. They are part of
            ``completion_tokens``, as any other.
    """

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    context_window: int | None = None
    cache_read_tokens: int | UnsetType = UNSET
    cache_creation_tokens: int | UnsetType = UNSET
    thinking_tokens: int | UnsetType = UNSET
    draft_tokens: int | UnsetType = UNSET
    accepted_draft_tokens: int | UnsetType = UNSET


class AttemptReport(WireStruct, frozen=True, kw_only=True):
    """How one attempt of a request went.

    Attributes:
        attempt: Number of the attempt, from 1.
        model: Id of the model.
        outcome: ``success``, or the kind of its failure.
        latency_ms: How long it took, in milliseconds.
    """

    attempt: int
    model: str
    outcome: str
    latency_ms: float


class TopLogprob(WireStruct, frozen=True, kw_only=True):
    """How likely a token was, as OpenAI tells it.

    Attributes:
        token: Its text; U+FFFD where it is a part of a character.
        logprob: Natural logarithm of its probability, before any sampling parameter.
        bytes: Its UTF-8 bytes.
    """

    token: str
    logprob: float
    bytes: list[int]


class TokenLogprob(WireStruct, frozen=True, kw_only=True):
    """How likely a token of the answer was, and which other ones there were.

    Attributes:
        token: Its text; U+FFFD where it is a part of a character.
        logprob: Natural logarithm of its probability, before any sampling parameter.
        bytes: Its UTF-8 bytes.
        top_logprobs: The likeliest tokens in its place, as many as were asked for.
    """

    token: str
    logprob: float
    bytes: list[int]
    top_logprobs: list[TopLogprob]


class InferenceResult(WireStruct, frozen=True, kw_only=True):
    """Result of ``generate``.

    The first seven fields are always present, null where unknown. Times are milliseconds
    from the receipt of the request.

    Attributes:
        text: The answer.
        tool_calls: Tool calls that the answer asks for.
        trace_id: The request in the event log.
        model_used: Id of the model that answered.
        latency_ms: Milliseconds until the answer was complete.
        time_to_first_token_ms: Milliseconds until the first text, reasoning or tool call.
        usage: Token counts.
        stop_reason: Why the model stopped.
        schema_valid: Whether the text has the form that ``response_format`` asked for, where the
            backend looked at that: every local model does. A text that was cut, such as by
            ``max_tokens``, mostly has not.
        reasoning: The model's reasoning.
        attempts: All attempts, when there was more than one.
        recoveries: How often a stream that had broken, or an answer that had ended too early,
            went on, when it did. Each has its ``recovery`` event.
        logprobs: How likely each token of the answer was, reasoning and markers included, where
            ``params.logprobs`` asked for it and no policy screens the answer. Tokens that
            ``response_format`` left no choice for are not among them.
        bounding_boxes: Boxes in the answer of a model with the capability ``grounding``, in their
            order, when there are any.
        provider_output_items: Opaque items that must go back to the same provider in the next
            turn.
        client_ref: The request's own ``client_ref``.
        cost_usd: What all attempts cost together; null when that of one is not known. Absent
            when models of this machine did it all, which cost nothing.
    """

    text: str
    tool_calls: list[ToolCall]
    trace_id: str
    model_used: str
    latency_ms: float
    time_to_first_token_ms: float | None
    usage: Usage | None
    stop_reason: StopReason | None = None
    schema_valid: bool | UnsetType = UNSET
    reasoning: str | UnsetType = UNSET
    attempts: list[AttemptReport] | UnsetType = UNSET
    recoveries: NonNegative | UnsetType = UNSET
    logprobs: list[TokenLogprob] | UnsetType = UNSET
    bounding_boxes: list[BoundingBox] | UnsetType = UNSET
    provider_output_items: list[Any] | UnsetType = UNSET
    client_ref: str | UnsetType = UNSET
    cost_usd: float | UnsetType | None = UNSET


class GenerateEventParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``generate.event``.

    Attributes:
        request_id: JSON-RPC id of the ``generate`` request.
        client_ref: The request's own ``client_ref``.
        seq: Number of the event within the stream, from 0 without a gap.
        event: What happened.
    """

    request_id: RequestId
    client_ref: str | UnsetType = UNSET
    seq: NonNegative
    event: StreamEvent


class EmbedParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``embed``.

    Attributes:
        texts: Texts to embed; the order is kept. One that is longer than the model reads is refused
            as ``context_overflow``, with its ``index``; none is cut.
        model: Id or name of a model with the capability ``embed``.
        is_query: Whether the texts are queries; then ``instruction`` is put before them.
        instruction: What the query is for.
        encoding: Lists of floats, or base64 of little-endian float32.
    """

    texts: Annotated[list[str], Meta(max_length=65536)]
    model: str | UnsetType = UNSET
    is_query: bool = False
    instruction: str = "Retrieve relevant memory facts"
    encoding: Literal["float", "base64"] = "float"


class EmbedResult(WireStruct, frozen=True, kw_only=True):
    """Unit-length embeddings, one for each text, in order.

    Attributes:
        embeddings: Lists of floats, or base64 of little-endian float32.
        model_used: Id of the model.
        dimensions: Length of each embedding.
        usage: Token counts.
    """

    embeddings: list[list[float] | str]
    model_used: str
    dimensions: int
    usage: Usage


class TokenizeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``tokenize``: raw ids, no template, no BOS.

    Attributes:
        model: Id or name of a model.
        text: The text.
    """

    model: str
    text: str


class TokenizeResult(WireStruct, frozen=True, kw_only=True):
    """Token ids of the text.

    Attributes:
        tokens: Token ids.
    """

    tokens: list[int]


class DetokenizeParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``detokenize``.

    Attributes:
        model: Id or name of a model.
        tokens: Token ids.
    """

    model: str
    tokens: list[NonNegative]


class DetokenizeResult(WireStruct, frozen=True, kw_only=True):
    """Text of the tokens, special tokens included.

    Attributes:
        text: The text.
    """

    text: str
