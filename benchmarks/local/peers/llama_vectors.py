"""llama-server's engine as a player that makes vectors (see player.py), over HTTP."""

from __future__ import annotations

import json
import sys
import time
from http.client import HTTPConnection

import xllamacpp

PATH, CONTEXT, THREADS = sys.argv[1:]


def start() -> xllamacpp.Server:
    """Start the server."""
    params = xllamacpp.CommonParams()
    params.model.path = PATH
    params.embedding = True
    params.n_ctx = params.n_batch = params.n_ubatch = int(CONTEXT)
    params.n_parallel = 16
    params.kv_unified = True
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(THREADS)
    params.port = 0
    return xllamacpp.Server(params)


def answer(texts: list[str]) -> float:
    """The seconds that the vectors of some texts take."""
    started = time.perf_counter()
    connection = HTTPConnection(ADDRESS)
    body = json.dumps({"content": texts})
    connection.request("POST", "/embedding", body, {"Content-Type": "application/json"})
    vectors = json.load(connection.getresponse())
    connection.close()
    assert len(vectors) == len(texts)
    return time.perf_counter() - started


SERVED = start()
ADDRESS = str(SERVED.listening_address).removeprefix("http://")
print("ready", flush=True)
for line in sys.stdin:
    print(json.dumps(answer(**json.loads(line))), flush=True)
