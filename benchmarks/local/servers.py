"""Contenders that listen on this machine and are asked over HTTP, all in OpenAI's dialect."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
import time
from asyncio.subprocess import Process
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import httpx
from llama_cpp.llama_grammar import json_schema_to_gbnf

from benchmarks.local.contenders import (
    COMPLETIONS_SERVER,
    ENDED,
    FORM,
    PEERS,
    SERVER,
    VENV,
    Direct,
    Setting,
    Timing,
    rendered,
    running,
)

HOST = "127.0.0.1"

#: Seconds that a server may say nothing.
_PATIENCE_S = 600

#: Seconds between two looks at whether a server answers.
_LOOK_S = 0.1


class Program(NamedTuple):
    """A program that answers over HTTP.

    Attributes:
        command: What starts it, with a model, on a port.
        endless: What of a request makes answers as long as they may be.
        formed: What of a request gives answers the form of FORM.
    """

    command: Callable[[Setting, int], list[str]]
    endless: dict[str, Any]
    formed: dict[str, Any]


def _llama_cpp(setting: Setting, port: int, *more: str) -> list[str]:
    """llama-cpp-python's server, with the library's own settings where the server's are others.

    Left to itself, it would drop each request for the next one, and keep the logits of all tokens.
    """
    threads = str(setting.threads)
    return [
        *(sys.executable, "-m", "llama_cpp.server", "--host", HOST, "--port", str(port)),
        *("--model", str(setting.path), "--n_ctx", str(setting.context)),
        *("--n_threads", threads, "--n_threads_batch", threads),
        *("--interrupt_requests", "false", "--logits_all", "false", "--verbose", "false"),
        *more,
    ]


def _llama_cpp_vectors(setting: Setting, port: int) -> list[str]:
    sizes = [f"--{name}={setting.context}" for name in ("n_batch", "n_ubatch")]
    return _llama_cpp(setting, port, "--embedding", "true", *sizes)


def _llama_server(setting: Setting, port: int, *more: str) -> list[str]:
    """llama-server's engine, which the peers' environment has."""
    model = [str(setting.path), str(setting.context), str(setting.threads)]
    script = [str(VENV / "bin" / "python"), str(PEERS / "llama_server.py")]
    return [*script, str(port), *model, *more]


def _llama_server_vectors(setting: Setting, port: int) -> list[str]:
    return _llama_server(setting, port, "vectors")


def _mlx_lm(setting: Setting, port: int) -> list[str]:
    address = ["--host", HOST, "--port", str(port), "--log-level", "ERROR"]
    return [sys.executable, "-m", "mlx_lm", "server", "--model", str(setting.path), *address]


#: Those that generate, and those that make vectors, from GGUF files.
PROGRAMS = {
    COMPLETIONS_SERVER: Program(
        _llama_cpp,
        {"logit_bias": {"<|im_end|>": -100}, "logit_bias_type": "tokens", "repeat_penalty": 1},
        {"grammar": json_schema_to_gbnf(json.dumps(FORM))},
    ),
    SERVER: Program(_llama_server, {"ignore_eos": True}, {"json_schema": FORM}),
}
VECTOR_PROGRAMS = {
    COMPLETIONS_SERVER: Program(_llama_cpp_vectors, {}, {}),
    SERVER: Program(_llama_server_vectors, {}, {}),
}

#: The one that generates from folders of MLX weights, whose answers the weights make endless.
MLX = Program(_mlx_lm, {}, {})


class Server(Direct):
    """A program that runs.

    Args:
        process: It.
        client: Knows where it listens.
        program: How it is asked.
    """

    def __init__(self, process: Process, client: httpx.AsyncClient, program: Program) -> None:
        self.pid = process.pid
        self._process = process
        self._client = client
        self._program = program

    async def answer(self, prompt: str, tokens: int, *, in_form: bool = False) -> Timing:
        """Answer one prompt; to cancel this is to close the connection."""
        body = {
            "prompt": rendered(prompt),
            "max_tokens": tokens,
            "temperature": 0,
            "stream": True,
            **self._program.endless,
            **(self._program.formed if in_form else {}),
        }
        started, first_s = time.perf_counter(), 0.0
        async with self._client.stream("POST", "/v1/completions", json=body) as response:
            response.raise_for_status()
            async for line in response.aiter_lines():
                if line.startswith("data:"):
                    first_s = first_s or time.perf_counter() - started
        return Timing(first_s, time.perf_counter() - started)

    async def embed(self, texts: list[str]) -> float:
        """Seconds that the vectors of some texts take."""
        started = time.perf_counter()
        response = await self._client.post("/v1/embeddings", json={"input": texts})
        vectors = response.raise_for_status().json()["data"]
        assert len(vectors) == len(texts)
        return time.perf_counter() - started

    async def ready(self) -> None:
        """Wait until it listens and has loaded the model."""
        while not await self._is_ready():
            if self._process.returncode is not None:
                raise RuntimeError(ENDED)
            await asyncio.sleep(_LOOK_S)

    async def _is_ready(self) -> bool:
        try:
            response = await self._client.get("/health")
        except httpx.TransportError:
            return False
        return response.status_code != httpx.codes.SERVICE_UNAVAILABLE  # not all know the path


@asynccontextmanager
async def server(program: Program, setting: Setting) -> AsyncGenerator[Server]:
    """A program with a model, once it is ready."""
    port = _free_port()
    client = httpx.AsyncClient(
        base_url=f"http://{HOST}:{port}",
        timeout=_PATIENCE_S,
        trust_env=False,
        limits=httpx.Limits(max_keepalive_connections=0),  # a server may close one as it is used
    )
    async with running(program.command(setting, port)) as process, client:
        served = Server(process, client, program)
        await served.ready()
        yield served


def _free_port() -> int:
    """A port that was free a moment ago: not every program tells which one it chose itself."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
