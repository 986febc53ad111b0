"""Real worker processes, and a model file small enough to make on the spot."""

import contextlib
import functools
import importlib
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest

from car_rpc.wire.content import Message
from car_rpc.wire.events import StreamEvent
from car_rpc.wire.worker import (
    Events,
    Failed,
    FromWorker,
    Generate,
    LoadProgress,
    Reply,
    SamplingParams,
    ToWorker,
)
from car_rpc.wire.worker import Load as LoadFrame
from car_rpc.workers.job import Request
from car_rpc.workers.runtime import Engine

Frame = TypeVar("Frame", bound=FromWorker)

#: Loads a model into an engine of this process: ``load(path, **options_of_the_load)``.
Load = Callable[..., Any]

ROOT = Path(__file__).parent.parent.parent
DEMO_FOLDER = ROOT / "car_rpc" / "data" / "demo" / "mlx"
DEMO_MODEL = ROOT / "car_rpc" / "data" / "demo" / "tiny-chat-F16.gguf"

CHAT_TEMPLATE = """\
{%- for message in messages -%}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor -%}
{{- '<|im_start|>assistant\n' -}}
{%- if enable_thinking is defined and enable_thinking -%}{{- '<think>\n' -}}{%- endif -%}
"""


class Kind(NamedTuple):
    """An engine for language models.

    Attributes:
        engine: Its name.
        library: What it needs.
        demo: Where the demo model lies in its format.
        models: The fixture that makes its models.
    """

    engine: str
    library: str
    demo: Path
    models: str


KINDS = [
    pytest.param(Kind("llama_cpp", "llama_cpp", DEMO_MODEL, "model_file"), marks=pytest.mark.llama),
    pytest.param(Kind("mlx", "mlx_lm", DEMO_FOLDER, "model_folder"), marks=pytest.mark.mlx),
]


class Worker:
    """A worker process from the core's side; blocking, with the test's timeout as its limit."""

    def __init__(self, engine: str, stderr: Path, *, through: Sequence[str] = ()) -> None:
        with stderr.open("wb") as log:
            self.process = subprocess.Popen(
                [*through, sys.executable, "-m", "car_rpc.workers", engine],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
            )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._stdin, self._stdout = self.process.stdin, self.process.stdout
        self._stderr = stderr
        self._decoder = msgspec.msgpack.Decoder(FromWorker)

    def send(self, *frames: ToWorker) -> None:
        for frame in frames:
            body = msgspec.msgpack.encode(frame)
            self._stdin.write(len(body).to_bytes(4, "big") + body)
        self._stdin.flush()

    def receive(self) -> FromWorker:
        length = self._stdout.read(4)
        if not length:
            raise EOFError
        return self._decoder.decode(self._stdout.read(int.from_bytes(length, "big")))

    def load(self, path: str | Path = "", **options: Any) -> FromWorker:
        self.send(LoadFrame(path=str(path), **options))
        while isinstance(frame := self.receive(), LoadProgress):
            pass
        return frame

    def until(self, kind: type[Frame]) -> Frame:
        """The next frame of this kind; the others are dropped."""
        while not isinstance(frame := self.receive(), kind):
            pass
        return frame

    def collect(self, request_id: int) -> tuple[list[StreamEvent], Reply | Failed]:
        """All events of a request and its answer; frames of other requests are dropped."""
        events: list[StreamEvent] = []
        while True:
            frame = self.receive()
            if isinstance(frame, Events) and frame.id == request_id:
                events += frame.events
            if isinstance(frame, Reply | Failed) and frame.id == request_id:
                return events, frame

    def ask(self, request: Request) -> Reply | Failed:
        self.send(request)
        return self.collect(request.id)[1]

    @staticmethod
    def request(text: str = "hello", request_id: int = 1, **params: Any) -> Generate:
        options: dict[str, Any] = {"temperature": 0.0, "max_tokens": 16, **params}
        return Generate(
            id=request_id,
            messages=[Message(role="user", content=text)],
            params=SamplingParams(**options),
            prefix_cache=False,  # so that equal requests have equal answers, counts included
        )

    def generate(self, text: str = "hello", **params: Any) -> list[StreamEvent]:
        self.send(self.request(text, **params))
        events, answer = self.collect(1)
        assert isinstance(answer, Reply), answer
        return events

    def stderr(self) -> str:
        return self._stderr.read_text(encoding="utf-8", errors="replace")

    def close(self) -> int:
        self._stdin.close()
        return self.process.wait()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        with contextlib.suppress(BrokenPipeError):  # what was written but never read
            self._stdin.close()
        self._stdout.close()


@pytest.fixture
def start_worker(tmp_path: Path) -> Iterator[Callable[..., Worker]]:
    workers: list[Worker] = []

    def start(engine: str, **options: Any) -> Worker:
        workers.append(Worker(engine, tmp_path / f"stderr-{len(workers)}", **options))
        return workers[-1]

    yield start
    for worker in workers:
        worker.kill()


@pytest.fixture(scope="module", params=KINDS, ids=lambda kind: kind.engine)
def kind(request: pytest.FixtureRequest) -> Kind:
    """Every engine for language models, one after the other."""
    pytest.importorskip(request.param.library)
    return request.param


@pytest.fixture(scope="module")
def model(kind: Kind, request: pytest.FixtureRequest) -> Callable[..., Path]:
    """Makes models for the engine; the same options give the same path."""
    return request.getfixturevalue(kind.models)


@pytest.fixture(scope="module")
def load(kind: Kind) -> Load:
    """Loads a model, with options for the load."""
    make_engine = importlib.import_module(f"car_rpc.workers.{kind.engine}.engine").make_engine

    def start(path: Path, **options: Any) -> Engine:
        engine = make_engine()
        engine.load(LoadFrame(path=str(path), **options), lambda _: None)
        return engine

    return start


@pytest.fixture(scope="session")
def model_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes model files; the same options give the same file."""
    folder = tmp_path_factory.mktemp("models")

    @functools.cache
    def make(template: str | None = CHAT_TEMPLATE, **options: Any) -> Path:
        return write_model(folder / f"{len(list(folder.iterdir()))}.gguf", template, **options)

    return make


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Makes folders of MLX weights; the same options give the same folder."""
    from tests.workers.folders import write_folder

    folder = tmp_path_factory.mktemp("folders")

    @functools.cache
    def make(template: str | None = CHAT_TEMPLATE, **options: Any) -> Path:
        return write_folder(folder / str(len(list(folder.iterdir()))), template, **options)

    return make


def byte_tokens() -> list[str]:
    """The 256 byte tokens in GPT-2's spelling."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in plain else chr(next(others)) for byte in range(256)]


def add_vocabulary(writer: Any, *, bos: bool = False, chatml: bool = True) -> int:
    """Give a GGUF model a byte vocabulary with ChatML's markers; returns its size."""
    import gguf

    control, own = gguf.TokenType.CONTROL, gguf.TokenType.USER_DEFINED
    special = {
        "<|endoftext|>": control,
        ("<|im_start|>" if chatml else "[turn]"): control,
        ("<|im_end|>" if chatml else "[end]"): control,
        "<think>": own, "</think>": own, "<tool_call>": own, "</tool_call>": own,
    }  # fmt: skip
    tokens = [*byte_tokens(), "he", *special]
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.NORMAL] * 257 + list(special.values()))
    writer.add_token_merges(["h e"])
    writer.add_eos_token_id(tokens.index("<|im_end|>" if chatml else "[end]"))
    writer.add_pad_token_id(tokens.index("<|endoftext|>"))
    writer.add_bos_token_id(tokens.index("<|endoftext|>"))
    writer.add_add_bos_token(bos)
    return len(tokens)


def write_model(
    path: Path,
    template: str | None = CHAT_TEMPLATE,
    *,
    context: int = 512,
    bos: bool = False,
    chatml: bool = True,
    tensors_of_a_part: int = 0,
) -> Path:
    """Write a GGUF model with random weights, a byte vocabulary and ChatML's markers.

    With ``bos`` every text begins with ``<|endoftext|>``; without ``chatml`` the markers are
    named otherwise. With ``tensors_of_a_part`` it is split, the metadata in a part of their own,
    and the first part is returned.
    """
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(
        path,
        "llama",
        split_max_tensors=tensors_of_a_part,
        small_first_shard=bool(tensors_of_a_part),
    )
    layers, heads, kv_heads, width, hidden = 2, 4, 2, 64, 128
    writer.add_name("random")
    writer.add_context_length(context)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_count(width // heads)
    vocabulary = add_vocabulary(writer, bos=bos, chatml=chatml)
    if template is not None:
        writer.add_chat_template(template)

    rng = np.random.default_rng(1)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float32))

    def norm(name: str) -> None:
        writer.add_tensor(name, np.ones(width, np.float32))

    weight("token_embd.weight", vocabulary, width)
    norm("output_norm.weight")
    kv_width = width // heads * kv_heads
    for layer in range(layers):
        norm(f"blk.{layer}.attn_norm.weight")
        weight(f"blk.{layer}.attn_q.weight", width, width)
        weight(f"blk.{layer}.attn_k.weight", kv_width, width)
        weight(f"blk.{layer}.attn_v.weight", kv_width, width)
        weight(f"blk.{layer}.attn_output.weight", width, width)
        norm(f"blk.{layer}.ffn_norm.weight")
        weight(f"blk.{layer}.ffn_gate.weight", hidden, width)
        weight(f"blk.{layer}.ffn_up.weight", hidden, width)
        weight(f"blk.{layer}.ffn_down.weight", width, hidden)
    weight("output.weight", vocabulary, width)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return min(path.parent.glob(f"{path.stem}-00001-of-*.gguf"), default=path)
