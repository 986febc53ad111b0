"""Models: the registry's schema, where a model comes from, and the ``models.*`` methods."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, UnsetType

from car_rpc.wire.base import NonNegative, NonNegativeFloat, Positive, WireStruct
from car_rpc.wire.events import RunnerEvent
from car_rpc.wire.speculation import Speculation

Capability: TypeAlias = Literal[
    "generate",
    "embed",
    "rerank",
    "classify",
    "code",
    "reasoning",
    "summarize",
    "tool_use",
    "multi_tool_call",
    "vision",
    "video_understanding",
    "audio_understanding",
    "grounding",
    "speech_to_text",
    "text_to_speech",
    "image_generation",
    "video_generation",
]

#: Models of this provider prove that an installation works; they are chosen last.
DEMO_PROVIDER = "demo"

Pooling: TypeAlias = Literal["none", "mean", "cls", "last", "rank"]


class ScriptedFailure(WireStruct, frozen=True, kw_only=True):
    """The error that a script raises: a kind of the protocol's table and its detail.

    Attributes:
        kind: A kind of the error table.
        message: The detail of the display text.
        status: HTTP status that a provider would have answered.
        retry_after_ms: How long to wait before a retry, in milliseconds.
    """

    kind: str
    message: str = "scripted failure"
    status: int | UnsetType = UNSET
    retry_after_ms: NonNegative | UnsetType = UNSET


class ScriptStep(WireStruct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One step of a scripted model.

    Exactly one of the fields is set; ``repeat`` goes with ``emit``.

    Attributes:
        emit: Emit this event, ``repeat`` times.
        repeat: How many times ``emit`` happens.
        echo: Emit the last user text, word by word.
        sleep_ms: Wait.
        print: Write to file descriptor 1, as careless native code does.
        fail: Fail with this error.
        crash: Kill the process that runs the script.
        stall: Say nothing more, for ever.
    """

    emit: RunnerEvent | UnsetType = UNSET
    repeat: NonNegative = 1
    echo: Literal[True] | UnsetType = UNSET
    sleep_ms: NonNegative | UnsetType = UNSET
    print: str | UnsetType = UNSET
    fail: ScriptedFailure | UnsetType = UNSET
    crash: Literal[True] | UnsetType = UNSET
    stall: Literal[True] | UnsetType = UNSET


class Adapter(WireStruct, frozen=True, kw_only=True):
    """A LoRA adapter: what a model was taught besides, as small changes of its weights.

    Attributes:
        path: A GGUF file for llama.cpp; for MLX a folder with ``adapter_config.json`` and
            ``adapters.safetensors``.
        scale: How strongly it changes the model: 1 as much as it was trained to, 0 not at all.
    """

    path: str
    scale: Annotated[float, Meta(ge=-10.0, le=10.0)] = 1.0


#: Adapters of one model. They are added up, so their order does not matter.
Adapters: TypeAlias = Annotated[list[Adapter], Meta(max_length=16)]


class LocalSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="local"):
    """A GGUF file for llama.cpp.

    Attributes:
        path: The file; of a model that was split into several (``-00001-of-00003.gguf``) the first,
            which stands for all. Needed where neither a hub's repository nor an address is named.
        hf_repo: Repository of a hub that holds the file. With ``hf_filename`` it stands for
            ``path``, once the file is in the models directory or in the hub's cache.
        hf_filename: Name of the file in that repository, or of the first of several.
        url: Address that the file can be downloaded from, in place of a repository, or of the
            first of several. The file has the address's last name, and lies in the models
            directory.
        sha256: What that file must hash to, in hexadecimal; not for several.
        tokenizer_repo: Repository of the tokenizer, where the file has none.
        mmproj_path: File of the projector, for models that see or hear. It is loaded with a model
            that has a capability for that; while it is not there, the model has none.
        mmproj_filename: Name of that file in ``hf_repo``.
        pooling: How token embeddings become one vector; the file's own choice when absent.
        context_length: Tokens of context per request; the model's own when absent.
        adapters: LoRA adapters that change what the file holds. They are files of the app: none
            is ever downloaded or deleted.
        speculation: How what an answer goes on with is guessed, so that several of its tokens are
            computed at once. It changes how fast an answer comes, not what it says. Only guesses
            that pay are made, and none while several requests are answered. Absent for none.
    """

    path: str | UnsetType = UNSET
    hf_repo: str | UnsetType = UNSET
    hf_filename: str | UnsetType = UNSET
    url: Annotated[str, Meta(pattern=r"^https?://\S+(?![\s\S])", max_length=2048)] | UnsetType = (
        UNSET
    )
    sha256: Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{64}(?![\s\S])")] | UnsetType = UNSET
    tokenizer_repo: str | UnsetType = UNSET
    mmproj_path: str | UnsetType = UNSET
    mmproj_filename: str | UnsetType = UNSET
    pooling: Pooling | UnsetType = UNSET
    context_length: Positive | UnsetType = UNSET
    adapters: Adapters | UnsetType = UNSET
    speculation: Speculation | UnsetType = UNSET


class MlxSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="mlx"):
    """A folder of MLX weights.

    Attributes:
        path: The folder. Needed where no hub's repository is named.
        hf_repo: Repository of a hub that holds the weights. It stands for ``path``, once they
            are in the models directory or in the hub's cache.
        pooling: How token embeddings become one vector; the folder's own choice when absent.
        context_length: Tokens of context per request; the model's own when absent.
        adapters: LoRA adapters that change what the folder holds. They are folders of the app:
            none is ever downloaded or deleted.
    """

    path: str | UnsetType = UNSET
    hf_repo: str | UnsetType = UNSET
    pooling: Pooling | UnsetType = UNSET
    context_length: Positive | UnsetType = UNSET
    adapters: Adapters | UnsetType = UNSET


class SystemSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="system"):
    """Speech that is installed on this machine, so that there are no weights to name.

    Attributes:
        engine: What does it: pocketsphinx, whose package carries a model of American English.
            It needs wideband audio: of what a telephone passes on it gets few words right.
    """

    engine: Literal["pocketsphinx"]


class DelegatedSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="delegated"):
    """A model that the app runs itself; ``hint`` tells its runner which one.

    Attributes:
        hint: Forwarded to the runner; tells it which provider or model is meant.
    """

    hint: str | UnsetType = UNSET


class KeyringEntry(WireStruct, frozen=True, kw_only=True):
    """A secret in the operating system's keychain. Reading it needs the extra ``keyring``.

    Attributes:
        service: What the secret is for, as it was stored.
        username: Whose it is, as it was stored.
    """

    service: str
    username: str


class SecretReference(WireStruct, frozen=True, kw_only=True):
    """Where a secret stands; exactly one of the fields is set.

    Attributes:
        env: Name of an environment variable of the core.
        keyring: Entry of the operating system's keychain.
    """

    env: str | UnsetType = UNSET
    keyring: KeyringEntry | UnsetType = UNSET


#: Address of a server: a port, if any, that exists, and no credentials, query or fragment.
Endpoint: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^https?://(\[[^\s/?#@\[\]]+\]|[^\s/?#@:\[\]]+)"
        r"(:([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?"
        r"(/[^\s?#]*)?(?![\s\S])",
        max_length=2048,
    ),
]

#: See :class:`OpenAICompatSource`.
Prefill: TypeAlias = Literal["assistant_turn", "continue_final_message", "prefix"]


class OpenAICompatSource(
    WireStruct, frozen=True, kw_only=True, tag_field="type", tag="openai_compat"
):
    """A model behind a server that speaks OpenAI's HTTP API.

    Attributes:
        endpoint: Address of the server without ``/v1``. It holds no credentials.
        model: What the server calls the model.
        api_key_env: Environment variable of the API key, or of several, separated by commas. An
            empty key sends none.
        api_key_envs: Further environment variables of keys. Keys take turns; a conversation
            keeps its own, and one that is refused or rate limited is passed over.
        api_key_keyrings: Keys in the operating system's keychain, beside those.
        headers: Sent with every request. The values are secrets: shown as ``***``.
        prefill: How the server is told to go on from the exact beginning of an answer, after a
            stream broke: ``assistant_turn`` where a last turn of the assistant is enough
            (llama-server, Ollama, OpenRouter), ``continue_final_message`` for that switch beside
            it (vLLM, SGLang), ``prefix`` for a mark on that turn (Mistral, DeepSeek). Absent for a
            server that cannot: it is asked to go on in a further turn.
    """

    endpoint: Endpoint
    model: str
    api_key_env: str | UnsetType = UNSET
    api_key_envs: list[str] | UnsetType = UNSET
    api_key_keyrings: list[KeyringEntry] | UnsetType = UNSET
    headers: dict[str, str | SecretReference] | UnsetType = UNSET
    prefill: Prefill | UnsetType = UNSET


class RemoteApiSource(
    OpenAICompatSource, frozen=True, kw_only=True, tag_field="type", tag="remote_api"
):
    """Another name of ``openai_compat``."""


class OllamaSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="ollama"):
    """A model of an Ollama server.

    Attributes:
        host: Address of the server.
        model_tag: The model's name there, with its tag, for example ``llama3.2:3b``.
    """

    host: Endpoint = "http://127.0.0.1:11434"
    model_tag: str


class VllmMlxSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="vllm_mlx"):
    """A model of a vLLM-MLX server.

    Attributes:
        endpoint: Address of the server without ``/v1``.
        model_name: What the server calls the model.
    """

    endpoint: Endpoint
    model_name: str


class FakeSource(WireStruct, frozen=True, kw_only=True, tag_field="type", tag="fake"):
    """A scripted model for an app's own tests.

    Attributes:
        script: What every request plays.
    """

    script: list[ScriptStep]


#: Tags of every kind of source that the protocol knows.
SourceType: TypeAlias = Literal[
    "local",
    "mlx",
    "openai_compat",
    "remote_api",
    "ollama",
    "vllm_mlx",
    "proprietary",
    "delegated",
    "apple_foundation_models",
    "system",
    "fake",
]

ModelSource: TypeAlias = (
    LocalSource
    | MlxSource
    | SystemSource
    | OpenAICompatSource
    | RemoteApiSource
    | OllamaSource
    | VllmMlxSource
    | DelegatedSource
    | FakeSource
)

#: It ends in "nothing follows": ``$`` also stands before a last line feed in Python.
ModelId: TypeAlias = Annotated[
    str,
    Meta(
        pattern=r"^[^\s/:]+/[^\s:]+:[^\s:]+(?![\s\S])", max_length=256, examples=["acme/small:q4"]
    ),
]


class Performance(WireStruct, frozen=True, kw_only=True):
    """Measured or claimed speed of a model.

    Attributes:
        latency_p50_ms: Median time of an answer, in milliseconds.
        latency_p95_ms: Time that 95 of 100 answers take at most, in milliseconds.
        ttft_p50_ms: Median time to the first token, in milliseconds.
        tokens_per_second: Tokens generated in a second.
    """

    latency_p50_ms: NonNegativeFloat | UnsetType = UNSET
    latency_p95_ms: NonNegativeFloat | UnsetType = UNSET
    ttft_p50_ms: NonNegativeFloat | UnsetType = UNSET
    tokens_per_second: NonNegativeFloat | UnsetType = UNSET


class PricingTier(WireStruct, frozen=True, kw_only=True):
    """Prices of long prompts: those that it names go before the model's own.

    Attributes:
        min_prompt_tokens: The shortest prompt that it is for; of several tiers, the one with
            the highest such number counts.
        input_per_mtok_usd: A million tokens of the prompt.
        output_per_mtok_usd: A million tokens of the answer.
        cache_read_per_mtok_usd: A million tokens of the prompt that came from a cache.
        cache_write_per_mtok_usd: A million tokens of the prompt that were put into a cache.
    """

    min_prompt_tokens: NonNegative
    input_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    output_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    cache_read_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    cache_write_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET


class Cost(WireStruct, frozen=True, kw_only=True):
    """What a model costs: money, or room on this machine. An absent price is unknown, not 0.

    Attributes:
        input_per_mtok_usd: A million tokens of the prompt.
        output_per_mtok_usd: A million tokens of the answer.
        cache_read_per_mtok_usd: A million tokens of the prompt that came from a cache.
        cache_write_per_mtok_usd: A million tokens of the prompt that were put into a cache.
        pricing_tiers: Prices of long prompts.
        size_bytes: Size of the weights' files, those of adapters included.
        ram_bytes: Memory that it takes while it is loaded.
        kv_bytes_per_token: Room of its attention cache for one token of context, in half
            precision.
    """

    input_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    output_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    cache_read_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    cache_write_per_mtok_usd: NonNegativeFloat | UnsetType = UNSET
    pricing_tiers: list[PricingTier] = msgspec.field(default_factory=list[PricingTier])
    size_bytes: NonNegative | UnsetType = UNSET
    ram_bytes: NonNegative | UnsetType = UNSET
    kv_bytes_per_token: NonNegative | UnsetType = UNSET


class Fit(WireStruct, frozen=True, kw_only=True):
    """Whether a local model would run in this machine's memory.

    Attributes:
        fits: Whether it needs no more than the machine can give it.
        memory_bytes: What it needs: its weights, its caches and the process that runs it.
    """

    fits: bool
    memory_bytes: NonNegative


class ModelSchema(WireStruct, frozen=True, kw_only=True):
    """What the registry knows of a model.

    Required to register: ``id``, ``source`` and ``capabilities``; the rest has defaults or is
    derived.

    Attributes:
        id: ``provider/name:variant``.
        source: Where it comes from and what runs it.
        capabilities: What it can do. It is asked about images and documents only with ``vision``
            or ``grounding``, about sound only with ``audio_understanding``, and about videos only
            with ``video_understanding``.
        name: Name for people.
        provider: Who serves it; the part of the id before ``/`` when empty.
        family: Models that it is a sibling of, for example ``qwen3``.
        version: Version within the family.
        context_length: Tokens of context; 0 when unknown.
        max_output_tokens: Most tokens of one answer.
        param_count: Number of parameters, for example ``4B``; ``30B-A3B`` are 30 billion, of
            which a token uses 3.
        quantization: For example ``Q4_K_M``.
        license: Licence of the weights, an SPDX identifier where there is one.
        chat_template: Whether its file brings a chat template.
        performance: Measured or claimed speed.
        cost: Prices and sizes.
        tags: Words to find it by.
        supported_params: Sampling parameters that it honours; empty when unknown.
        trust_tier: ``curated`` for what ships with car-rpc, ``community`` for the user's own.
        available: Whether a request could be served now.
        weights_ready: Whether the weights are on this machine, adapters included (true where there
            are none).
        reason: Why they are not, with the file that is missing or what it lacks; of a model that
            is ready and reads text only, that its projector is missing.
        downloads_weights: Whether ``models.pull`` can download the weights.
        fit: Whether it fits this machine; told by ``models.search`` and ``models.upgrades``.
    """

    id: ModelId
    source: ModelSource
    capabilities: Annotated[list[Capability], Meta(min_length=1)]
    name: str = ""
    provider: str = ""
    family: str = ""
    version: str = ""
    context_length: NonNegative = 0
    max_output_tokens: Positive | UnsetType = UNSET
    param_count: str | UnsetType = UNSET
    quantization: str | UnsetType = UNSET
    license: str | UnsetType = UNSET
    chat_template: bool | UnsetType = UNSET
    performance: Performance | UnsetType = UNSET
    cost: Cost | UnsetType = UNSET
    tags: list[str] = msgspec.field(default_factory=list[str])
    supported_params: list[str] = msgspec.field(default_factory=list[str])
    trust_tier: Literal["curated", "community"] = "community"
    available: bool = False
    weights_ready: bool = False
    reason: str | UnsetType = UNSET
    downloads_weights: bool = False
    fit: Fit | UnsetType = UNSET


class ModelsListParams(WireStruct, frozen=True, kw_only=True):
    """Filters of ``models.list``.

    Attributes:
        capability: Only models that have it.
        available_only: Only models that could serve a request now.
    """

    capability: Capability | UnsetType = UNSET
    available_only: bool = False


class ModelsListResult(WireStruct, frozen=True, kw_only=True):
    """All models that match, by id.

    Attributes:
        models: The models, sorted by id.
    """

    models: list[ModelSchema]


class ModelParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of methods that take one model, by id or name.

    Attributes:
        model: Id or name of a model.
    """

    model: str


class ModelResult(WireStruct, frozen=True, kw_only=True):
    """One model.

    Attributes:
        model: The model.
    """

    model: ModelSchema


class ModelsRegisterParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``models.register``.

    Attributes:
        model: The model.
    """

    model: ModelSchema


class ModelsRegisterResult(WireStruct, frozen=True, kw_only=True):
    """The model as it now stands in the registry.

    Attributes:
        model: The model, with what was derived.
        replaced: Whether a model with this id was registered before.
    """

    model: ModelSchema
    replaced: bool


class ModelsUnregisterResult(WireStruct, frozen=True, kw_only=True):
    """Id of the model that is gone.

    Attributes:
        model_id: The id.
    """

    model_id: str


ServerKind: TypeAlias = Literal[
    "ollama",
    "lm_studio",
    "llama_server",
    "llama_cpp_python",
    "vllm",
    "vllm_mlx",
    "mlx_lm",
    "other",
]


class ModelsDiscoverParams(WireStruct, frozen=True, kw_only=True):
    """Parameters of ``models.discover``.

    Attributes:
        endpoints: Addresses to look at, instead of the configured ones.
        timeout_ms: How long each of them may take, in milliseconds, instead of the configured
            limit. They are looked at side by side.
    """

    endpoints: Annotated[list[Endpoint], Meta(max_length=64)] | UnsetType = UNSET
    timeout_ms: Annotated[int, Meta(ge=1, le=30_000)] | UnsetType = UNSET


class DiscoveredServer(WireStruct, frozen=True, kw_only=True):
    """What was found at an address.

    Attributes:
        endpoint: The address.
        reachable: Whether a server there lists models in OpenAI's form.
        models: Ids of its models; none when it is not reachable.
        kind: What kind of server it is, when it is reachable.
        reason: Why it is not reachable.
    """

    endpoint: str
    reachable: bool
    models: list[str]
    kind: ServerKind | UnsetType = UNSET
    reason: str | UnsetType = UNSET


class ModelsDiscoverResult(WireStruct, frozen=True, kw_only=True):
    """Servers and models that were found.

    Attributes:
        enabled: Whether discovery is switched on; nothing is looked at while it is off.
        servers: Every address that was looked at, in that order.
        registered: Ids of models that this process did not know before.
        unavailable: Ids of models that were there the last time and are not any more.
    """

    enabled: bool
    servers: list[DiscoveredServer]
    registered: list[str]
    unavailable: list[str]
