"""llama-server's engine: listens until it is killed."""

from __future__ import annotations

import signal
import sys

import xllamacpp

port, path, context, threads, *vectors = sys.argv[1:]
params = xllamacpp.CommonParams()
params.model.path = path
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
params.port = int(port)
if vectors:
    params.embedding = True
    params.n_ctx = params.n_batch = params.n_ubatch = int(context)
    params.n_parallel = 16
    params.kv_unified = True
else:
    params.n_parallel = 8
    params.n_ctx = 8 * int(context)
server = xllamacpp.Server(params)
signal.pause()
