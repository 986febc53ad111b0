"""Frames between the core and its worker processes.

Transport: 4-byte big-endian length, then one msgpack map tagged by ``type``. The core writes
to the worker's stdin and reads its stdout. A worker serves one model; end of file on its
stdin means that the core is gone and the worker exits at once.
"""

from __future__ import annotations

from typing import Any, Literal, TypeAlias

from msgspec import Struct

from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.inference import ResponseFormat, TokenLogprob
from car_rpc.wire.models import Adapter, Pooling, ScriptStep
from car_rpc.wire.speculation import Speculation
from car_rpc.wire.speech import Word

#: Largest frame either side accepts, in bytes: one message of the wire plus its envelope.
MAX_WORKER_FRAME_BYTES = 80 * 1024 * 1024


class SamplingParams(Struct, frozen=True, kw_only=True):
    """Sampling for a local model, defaults applied; ``None`` means not set.

    ``seed`` is ``None`` for a random one. ``thinking`` ``auto`` means the template's own
    default.
    """

    temperature: float = 0.7
    top_p: float = 0.95
    top_k: int | None = None
    min_p: float | None = None
    max_tokens: int | None = None
    stop: list[str] = []
    seed: int | None = None
    thinking: Literal["auto", "on", "off"] = "auto"
    budget_tokens: int = 0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repeat_penalty: float = 1.0
    logit_bias: dict[int, float] = {}
    ignore_eos: bool = False
    logprobs: int = 0


class Load(Struct, frozen=True, kw_only=True, tag_field="type", tag="load"):
    """Load the model. Always the first frame. Answered by Loaded or Failed with id 0.

    Attributes:
        path: Model file or folder.
        projector: File of the projector of a model that sees or hears; empty for none.
        context_length: Tokens of context per request; ``None`` lets the worker choose.
        pooling: Pooling for embeddings; ``None`` is the model's own, else mean.
        adapters: LoRA adapters that go on top of it.
        has_rank_head: Whether the file of a model that ranks has a head for that.
        speculation: How what an answer goes on with is guessed; ``None`` for no guesses.
        script: Steps of a scripted model (fake engine only).
    """

    path: str = ""
    projector: str = ""
    context_length: int | None = None
    pooling: Pooling | None = None
    adapters: list[Adapter] = []
    has_rank_head: bool = True
    speculation: Speculation | None = None
    script: list[ScriptStep] = []


class AnswerPrefix(Struct, frozen=True, kw_only=True):
    """The beginning of an answer that was cut; the model goes on from there.

    Attributes:
        text: The answer so far.
        reasoning: The reasoning before it.
        counted_chars: How many characters of the text, from its start, came from attempts that
            told their usage.
    """

    text: str
    reasoning: str = ""
    counted_chars: int = 0


class Generate(Struct, frozen=True, kw_only=True, tag_field="type", tag="generate"):
    """Generate. Answered by Rendering, Rendered, Events, then Reply (result ``None``) or Failed.

    Failed may come at any point, also in place of Rendered.

    With ``prefix`` only what follows it is answered; its tokens count as those of the answer, in
    ``usage`` and toward ``max_tokens``, but for those that were counted before: they are a part of
    the prompt.
    The events end with ``usage`` and ``stop``; there is no ``attempt``, ``done`` or ``error``
    among them. Content holds only text, tool and thinking blocks, and images and recordings as
    base64; ``places`` says where the client put each of those, for errors. Without ``prefix_cache``
    nothing is taken from or kept for other requests.

    What follows the reasoning has the form of ``response_format``, unless it is a call of a tool,
    and ``stop`` says whether it has. With ``must_call`` it is a call of one of the tools named
    there; without ``parallel_tool_calls`` no second call follows the first.
    """

    id: int
    messages: list[Message]
    places: list[str] = []
    tools: list[dict[str, Any]] = []
    must_call: list[str] = []
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    params: SamplingParams = SamplingParams()
    prefix: AnswerPrefix | None = None
    prefix_cache: bool = True


class Embed(Struct, frozen=True, kw_only=True, tag_field="type", tag="embed"):
    """Embed texts. Reply result: :class:`Embeddings`."""

    id: int
    texts: list[str]


class Score(Struct, frozen=True, kw_only=True, tag_field="type", tag="score"):
    """Say how likely each of some answers is. Reply result: list of their log-probabilities.

    An answer is followed by the end of the turn. The prompt is rendered and announced as for
    :class:`Generate`; the model does not think before.
    """

    id: int
    messages: list[Message]
    answers: list[str]


class Rank(Struct, frozen=True, kw_only=True, tag_field="type", tag="rank"):
    """Say how well documents fit a query. Reply result: list of scores from 0 to 1."""

    id: int
    query: str
    documents: list[str]
    instruction: str


class Tokenize(Struct, frozen=True, kw_only=True, tag_field="type", tag="tokenize"):
    """Raw token ids of a text, without template and BOS. Reply result: list of int."""

    id: int
    text: str


class Detokenize(Struct, frozen=True, kw_only=True, tag_field="type", tag="detokenize"):
    """Text of token ids, special tokens included. Reply result: str."""

    id: int
    tokens: list[int]


class Transcribe(Struct, frozen=True, kw_only=True, tag_field="type", tag="transcribe"):
    """Write down what is said. Reply result: :class:`Transcribed`.

    Attributes:
        audio: Bytes of an audio file; ``None`` to read ``path``.
        path: Absolute path of an audio file.
        language: What is spoken; ``None`` is the model's own language.
        prompt: Names and terms that may occur, for models that take a hint.
        timestamps: Whether to return the words.
    """

    id: int
    audio: bytes | None = None
    path: str = ""
    language: str | None = None
    prompt: str | None = None
    timestamps: bool = False


class FromHub(Struct, frozen=True, kw_only=True, tag_field="type", tag="hub"):
    """Files of a hub's repository, which go into the hub's cache.

    Attributes:
        repo: The repository.
        files: Names of the files; none means all that a model in MLX's format consists of.
        hub_dir: The hub's cache.
    """

    repo: str
    files: list[str] = []
    hub_dir: str


class FromUrl(Struct, frozen=True, kw_only=True, tag_field="type", tag="url"):
    """A file at an address.

    Attributes:
        url: The address.
        sha256: What the file must hash to, in hexadecimal; ``None`` when nobody said.
        target: Where it goes.
    """

    url: str
    sha256: str | None = None
    target: str


class FromPath(Struct, frozen=True, kw_only=True, tag_field="type", tag="path"):
    """A file or a folder of this machine.

    Attributes:
        path: What is copied.
        is_folder: Whether that is to be a folder.
        sha256: What the file must hash to, in hexadecimal; ``None`` when nobody said.
        target: Where it goes.
    """

    path: str
    is_folder: bool
    sha256: str | None = None
    target: str


PullSource: TypeAlias = FromHub | FromUrl | FromPath


class Pull(Struct, frozen=True, kw_only=True, tag_field="type", tag="pull"):
    """Bring weights onto this machine. Answered by Progress, then Reply: :class:`Pulled`.

    What is there when the worker ends stays, and the next Pull of it goes on from there.
    """

    id: int
    source: PullSource


class Cancel(Struct, frozen=True, kw_only=True, tag_field="type", tag="cancel"):
    """Stop a request. It is still answered: Failed with kind ``cancelled``, or its Reply."""

    id: int


class Pause(Struct, frozen=True, kw_only=True, tag_field="type", tag="pause"):
    """Stop producing tokens for a request until Resume: its reader is behind."""

    id: int


class Resume(Struct, frozen=True, kw_only=True, tag_field="type", tag="resume"):
    """Go on with a paused request."""

    id: int


#: What is answered once.
Request: TypeAlias = Generate | Embed | Score | Rank | Tokenize | Detokenize | Transcribe | Pull

ToWorker: TypeAlias = Load | Request | Cancel | Pause | Resume


class Loaded(Struct, frozen=True, kw_only=True, tag_field="type", tag="loaded"):
    """The model is ready.

    Attributes:
        context_length: Tokens of context that one request may use.
        context_trained: Tokens of context that the model was trained on; 0 when it does not say.
        context_is_fixed: Whether requests get just that until the model's entry asks for more,
            and not more as memory allows.
        model_bytes: Size of the weights.
        engine: Name and version of the library, for the log.
    """

    context_length: int
    context_trained: int = 0
    context_is_fixed: bool = False
    model_bytes: int = 0
    engine: str = ""


class LoadProgress(Struct, frozen=True, kw_only=True, tag_field="type", tag="load_progress"):
    """How far loading is, in percent."""

    percent: float


class Progress(Struct, frozen=True, kw_only=True, tag_field="type", tag="progress"):
    """How far a request is."""

    id: int
    done_bytes: int
    total_bytes: int


class Rendering(Struct, frozen=True, kw_only=True, tag_field="type", tag="rendering"):
    """The chat template of a Generate starts to run.

    The template comes with the model file, so nobody vouches that it ends: the core arms a
    deadline here, drops it at Rendered or Failed, and kills the worker when it passes. It does
    not start at Generate, because a slow model may be in the middle of a long step then.
    """

    id: int


class Rendered(Struct, frozen=True, kw_only=True, tag_field="type", tag="rendered"):
    """The prompt of a Generate is rendered and tokenized; it now waits for its turn."""

    id: int
    prompt_tokens: int


class Events(Struct, frozen=True, kw_only=True, tag_field="type", tag="events"):
    """Stream events of a request, in order, and how likely its tokens were where that was asked."""

    id: int
    events: list[StreamEvent]
    logprobs: list[TokenLogprob] = []


class Embeddings(Struct, frozen=True, kw_only=True):
    """Unit-length vectors as little-endian float32, one after the other."""

    data: bytes
    dimensions: int
    prompt_tokens: int


class Transcribed(Struct, frozen=True, kw_only=True):
    """What was said, and when if that was asked for."""

    text: str
    language: str
    words: list[Word] = []


class Pulled(Struct, frozen=True, kw_only=True):
    """What was brought.

    Attributes:
        size_bytes: Size of all of it.
        downloaded_bytes: How much of that was not here before.
    """

    size_bytes: int
    downloaded_bytes: int


class Reply(Struct, frozen=True, kw_only=True, tag_field="type", tag="reply"):
    """A request succeeded."""

    id: int
    result: Any = None


class Failed(Struct, frozen=True, kw_only=True, tag_field="type", tag="failed"):
    """A request failed (id 0: the load). ``kind`` is one of the error table."""

    id: int
    kind: str
    detail: str
    data: dict[str, Any] = {}


FromWorker: TypeAlias = (
    Loaded | LoadProgress | Progress | Rendering | Rendered | Events | Reply | Failed
)
