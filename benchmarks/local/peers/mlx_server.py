"""mlx_lm.server as a player (see player.py), over its HTTP interface on this machine."""

from __future__ import annotations

import json
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.client import HTTPConnection

from mlx_lm import server

PATH = sys.argv[1]
HOST = "127.0.0.1"


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port: int = probe.getsockname()[1]
        return port


def answer(prompt: str, tokens: int, started: float) -> tuple[float, float]:
    """Seconds until the first token and until the last."""
    body = {"prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
    connection = HTTPConnection(HOST, PORT)
    connection.request("POST", "/v1/completions", json.dumps(body))
    first = 0.0
    for line in connection.getresponse():
        if line.startswith(b"data:") and not first:
            first = time.perf_counter() - started
    connection.close()
    return first, time.perf_counter() - started


PORT = free_port()
sys.argv[1:] = ["--model", PATH, "--host", HOST, "--port", str(PORT), "--log-level", "ERROR"]
threading.Thread(target=server.main, daemon=True).start()
while True:
    with suppress(OSError), socket.create_connection((HOST, PORT)):
        break
    threading.Event().wait(0.1)
answer("<|im_start|>user\n", 1, time.perf_counter())  # once the model is loaded
print("ready", flush=True)
with ThreadPoolExecutor(8) as pool:
    for line in sys.stdin:
        question = json.loads(line)
        started = time.perf_counter()
        jobs = [
            pool.submit(answer, prompt, question["tokens"], started)
            for prompt in question["prompts"]
        ]
        print(json.dumps([job.result() for job in jobs]), flush=True)
