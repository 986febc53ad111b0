"""llama-server's engine as a player (see player.py), over its HTTP interface on this machine."""

from __future__ import annotations

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from typing import Any

import xllamacpp

PATH, CONTEXT, THREADS = sys.argv[1:]


def start() -> xllamacpp.Server:
    """Start the server."""
    params = xllamacpp.CommonParams()
    params.model.path = PATH
    params.n_parallel = 8
    params.n_ctx = 8 * int(CONTEXT)
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(THREADS)
    params.port = 0
    return xllamacpp.Server(params)


def answer(prompt: str, question: dict[str, Any], started: float) -> tuple[float, float]:
    """Seconds until the first token and until the last."""
    body = {"prompt": prompt, "n_predict": question["tokens"], "temperature": 0, "ignore_eos": True}
    if question["schema"] is not None:
        body["json_schema"] = question["schema"]
    data = json.dumps({**body, "stream": True, "cache_prompt": True})
    connection = HTTPConnection(ADDRESS)
    connection.request("POST", "/completion", data, {"Content-Type": "application/json"})
    first = 0.0
    for line in connection.getresponse():
        if line.startswith(b"data:") and not first:
            first = time.perf_counter() - started
    connection.close()
    return first, time.perf_counter() - started


SERVED = start()
ADDRESS = str(SERVED.listening_address).removeprefix("http://")
print("ready", flush=True)
with ThreadPoolExecutor(8) as pool:
    for line in sys.stdin:
        question = json.loads(line)
        started = time.perf_counter()
        jobs = [pool.submit(answer, each, question, started) for each in question["prompts"]]
        print(json.dumps([job.result() for job in jobs]), flush=True)
