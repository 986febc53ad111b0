"""A model behind a server that speaks OpenAI's API, and what comes of it when that server dies.

The server is llama-cpp-python's, with the demo model. It takes one line of shell to run another
one; for car-rpc it is an address.

    pip install 'llama-cpp-python[server]'
    python examples/python-server/main.py
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import anyio

import car_rpc
from car_rpc.client import CarClient, RemoteError
from car_rpc.wire.events import Attempt, StreamReset, TextDelta

MODEL = Path(car_rpc.__file__).parent / "data" / "demo" / "tiny-chat-F16.gguf"


async def main() -> None:
    with tempfile.TemporaryDirectory() as state_dir, server() as (url, process):
        async with CarClient.start(arguments=["--state-dir", state_dir]) as car:
            source = {"type": "openai_compat", "endpoint": url, "model": "tiny"}
            await car.register_model(
                {"id": "here/tiny:1", "source": source, "capabilities": ["generate"]}
            )
            print("== An answer of the server")
            await ask(car, "What is the capital of France?")
            print("== Another one, in whose middle the server is killed")
            try:
                await ask(car, "Tell me a story.", kill=process)
            except RemoteError as error:
                print(f"\n{error.kind} ({error.data['cause']}), after all attempts")
                print(f"kept: {len(error.data['snapshot']['text'])} characters")


async def ask(car: CarClient, prompt: str, kill: subprocess.Popen[str] | None = None) -> None:
    """Show an answer as it comes; with `kill`, the server dies after a few words of it."""
    pieces = 0
    request = {"model": "here/tiny:1", "prompt": prompt, "params": {"temperature": 0}}
    async with car.stream(**request) as stream:
        async for event in stream:
            match event:
                case Attempt(reason=str() as reason):
                    print(f"\n[attempt {event.attempt}: {reason}]")
                case StreamReset():
                    print("\n[from the start]")
                case TextDelta():
                    print(event.text, end="", flush=True)
                    pieces += 1
                    if kill is not None and pieces == 20:
                        kill.kill()
                case _:
                    pass
        await stream.result()
    print()


@contextmanager
def server() -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Run the server on a free port; gives its address when it is ready, and its process."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    options = [
        "--model",
        str(MODEL),
        "--model_alias",
        "tiny",
        "--n_ctx",
        "1024",
        "--verbose",
        "false",
    ]
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "llama_cpp.server", *options, "--port", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            said: list[str] = []
            for line in process.stderr or ():
                said.append(line)
                if "Uvicorn running" in line:
                    break
            else:
                sys.exit(
                    f"{said[-1].strip() if said else 'the server said nothing'}\n"
                    "The server did not start. It needs: pip install 'llama-cpp-python[server]'"
                )
            yield f"http://127.0.0.1:{port}", process
        finally:
            process.kill()


if __name__ == "__main__":
    anyio.run(main)
