"""Real OpenAI-compatible servers with the demo model, started on the loopback interface."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from gguf import GGUFReader, GGUFValueType, GGUFWriter, Keys, PoolingType
from gguf.scripts.gguf_new_metadata import MetadataDetails, copy_with_new_metadata

DEMO = Path(__file__).parents[2] / "car_rpc" / "data" / "demo"


class RealServer(NamedTuple):
    """A server that runs.

    Attributes:
        port: Where it listens, on 127.0.0.1.
        model: What it calls the demo model.
    """

    port: int
    model: str

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@contextmanager
def llama_cpp_server(
    model: Path = DEMO / "tiny-chat-F16.gguf", *, embeds: bool = False
) -> Iterator[RealServer]:
    """llama-cpp-python's server. It reports no usage in streams and finds no calls in text.

    Left to itself, it would drop each request for the next one.
    """
    port = _free_port()
    settings = [
        *("--model", str(model), "--model_alias", "tiny", "--n_ctx", "1024"),
        *("--interrupt_requests", "false", "--host", "127.0.0.1", "--port", str(port)),
    ]
    if embeds:
        settings += ["--embedding", "true"]
    with _running(["llama_cpp.server", *settings], "Uvicorn running"):
        yield RealServer(port, "tiny")


@contextmanager
def open_server(folder: Path) -> Iterator[RealServer]:
    """llama-cpp-python's server, going on with a last turn of the assistant, and embedding texts.

    Servers that do the first leave that turn open when they render the conversation. This one can
    be told to only by the model's template, and to give one vector for a text only by the model's
    pooling, so a copy of the model gets both.
    """
    copy = folder / "open.gguf"
    reader = GGUFReader(DEMO / "tiny-chat-F16.gguf")
    architecture = reader.fields[Keys.General.ARCHITECTURE].contents()
    more = {
        Keys.Tokenizer.CHAT_TEMPLATE: MetadataDetails(GGUFValueType.STRING, _open_template()),
        Keys.LLM.POOLING_TYPE.format(arch=architecture): MetadataDetails(
            GGUFValueType.UINT32, PoolingType.MEAN
        ),
    }
    copy_with_new_metadata(reader, GGUFWriter(copy, architecture), more, [])
    with llama_cpp_server(copy, embeds=True) as server:
        yield server


@contextmanager
def mlx_lm_server() -> Iterator[RealServer]:
    """mlx_lm's server. It cannot list its models where Hugging Face's cache folder is missing."""
    port = _free_port()
    settings = ["--model", str(DEMO / "mlx"), "--host", "127.0.0.1", "--port", str(port)]
    with (
        TemporaryDirectory() as cache,
        _running(["mlx_lm", "server", *settings], "Starting httpd", HF_HUB_CACHE=cache),
    ):
        yield RealServer(port, "default_model")


def _open_template() -> str:
    """The demo model's template, but that a last turn of the assistant gets no end."""
    config = json.loads((DEMO / "mlx" / "tokenizer_config.json").read_text(encoding="utf-8"))
    template: str = config["chat_template"]
    end = "{{- '<|im_end|>\\n' }}"
    next_role = "\n{%- elif message.role == 'tool' %}"
    prompt = "{%- if add_generation_prompt"
    for closed, left_open in (
        (end + next_role, "{%- if not loop.last %}" + end + "{%- endif %}" + next_role),
        (prompt, prompt + " and messages[-1].role != 'assistant'"),
        ("(loop.last or reasoning)", "reasoning"),  # nor thoughts that it had not
    ):
        assert template.count(closed) == 1
        template = template.replace(closed, left_open)
    return template


def _free_port() -> int:
    """A port that was free a moment ago: neither server tells which one it chose itself."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def _running(module: list[str], ready: str, **variables: str) -> Iterator[None]:
    """A process, from the line that says it is ready until its end."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONUNBUFFERED": "1", **variables}
    process = subprocess.Popen(
        [sys.executable, "-m", *module],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment,
    )
    reader: threading.Thread | None = None
    try:
        said: list[str] = []
        for line in process.stdout:
            said.append(line)
            if ready in line:
                break
        else:
            raise RuntimeError(f"the server did not start: {''.join(said)}")
        # Whoever logs must never wait for a reader.
        reader = threading.Thread(target=process.stdout.read)
        reader.start()
        yield
    finally:
        process.kill()
        process.wait()
        if reader is not None:
            reader.join()
        process.stdout.close()
