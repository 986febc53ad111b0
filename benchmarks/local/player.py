"""A contender in a process of its own: answers on standard output what a line of input asks.

A question is ``{"prompts": [text], "tokens": n, "schema": schema or null}``; the answer is a list
with the seconds until the first token and until the last one of each. Prompts are rendered already.
Who can be asked two prompts one after the other gets ``{"prompts": [long, short], "tokens": n,
"wait_s": seconds between them, "abandon": whether the long one is abandoned then}``, and answers
times from when each was asked, of those that were not abandoned.
Who makes vectors is asked ``{"texts": [text]}``, and answers the seconds that it took.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

#: Seconds until the first token and until the last.
Times = list[tuple[float, float]]
Schema = dict[str, Any] | None
Answer = Callable[[list[str], int, Schema], Times]


def main() -> None:
    """Answer as the contender that the command line names, until the input ends."""
    name, path, context, threads = sys.argv[1:]
    answer = CONTENDERS[name](Path(path), int(context), int(threads))
    print("ready", flush=True)
    for line in sys.stdin:
        question = json.loads(line)
        print(json.dumps(answer(**question)), flush=True)


def bare(path: Path, context: int, threads: int, **settings: Any) -> Answer:
    """The loop over llama_decode, with all streams in one batch, and one prefix kept."""
    from benchmarks.local.bare import BareLoop

    loop = BareLoop(path, context=context, sequences=8, threads=threads, **settings)
    kept: list[int] = []

    def answer(prompts: list[str], tokens: int, schema: Schema) -> Times:
        nonlocal kept
        assert schema is None
        started = time.perf_counter()
        all_tokens = [loop.tokens(prompt) for prompt in prompts]
        begun = loop.keep_beginning(kept, all_tokens[0])
        lasts: list[int] = []
        firsts: list[float] = []
        for sequence, prompt in enumerate(all_tokens):
            start = begun if sequence == 0 else 0
            lasts.append(int(loop.read(prompt[start:], sequence, start).argmax()))
            firsts.append(time.perf_counter() - started)
        for step in range(tokens - 1):
            rows = [
                (last, len(prompt) + step, sequence)
                for sequence, (last, prompt) in enumerate(zip(lasts, all_tokens, strict=True))
            ]
            lasts = [int(logits.argmax()) for logits in loop.step(rows)]
        kept = all_tokens[0]
        whole = time.perf_counter() - started
        return [(first, whole) for first in firsts]

    return answer


def completions(path: Path, context: int, threads: int) -> Answer:
    """llama-cpp-python's completions, which also make text of the tokens."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path), n_ctx=context, n_threads=threads, n_threads_batch=threads, verbose=False
    )
    never_ends = {model.token_eos(): -100.0}

    def answer(prompts: list[str], tokens: int, schema: Schema) -> Times:
        started = time.perf_counter()
        times: Times = []
        for prompt in prompts:
            first = 0.0
            form = schema and llama_cpp.LlamaGrammar.from_json_schema(json.dumps(schema))
            for _ in model.create_completion(
                prompt,
                max_tokens=tokens,
                temperature=0.0,
                stream=True,
                logit_bias=never_ends,
                grammar=form,
            ):
                first = first or time.perf_counter() - started
            times.append((first, time.perf_counter() - started))
        return times

    return answer


def bare_mlx(path: Path, _context: int, _threads: int) -> Answer:
    """mlx-lm's loop for one prompt, of which the last is kept, and its batch for several.

    Both in single precision, as car-rpc computes on a processor.
    """
    import mlx.core as mx
    from mlx_lm.generate import BatchGenerator, generate_step
    from mlx_lm.models.cache import make_prompt_cache, trim_prompt_cache
    from mlx_lm.utils import load_model, load_tokenizer

    network, _ = load_model(path)
    network.set_dtype(mx.float32)
    tokenizer = load_tokenizer(path)
    cache = make_prompt_cache(network)
    kept: list[int] = []

    def alone(prompt: list[int], tokens: int, started: float) -> Times:
        nonlocal kept
        pairs = zip(kept, prompt[:-1], strict=False)
        common = sum(1 for _ in itertools.takewhile(lambda pair: pair[0] == pair[1], pairs))
        trim_prompt_cache(cache, cache[0].offset - common)
        kept = prompt
        rest, first = mx.array(prompt[common:]), 0.0
        for _ in generate_step(rest, network, max_tokens=tokens, prompt_cache=cache):
            first = first or time.perf_counter() - started
        return [(first, time.perf_counter() - started)]

    def together(prompts: list[list[int]], tokens: int, started: float) -> Times:
        batch = BatchGenerator(network, max_tokens=tokens, completion_batch_size=len(prompts))
        firsts: dict[int, float] = {}
        lasts: dict[int, float] = {}
        uids = batch.insert(prompts)
        while len(lasts) < len(uids):
            for said in batch.next()[1]:
                firsts.setdefault(said.uid, time.perf_counter() - started)
                if said.finish_reason:
                    lasts[said.uid] = time.perf_counter() - started
        return [(firsts[uid], lasts[uid]) for uid in uids]

    def answer(prompts: list[str], tokens: int, schema: Schema) -> Times:
        assert schema is None
        started = time.perf_counter()
        first, *more = [tokenizer.encode(prompt) for prompt in prompts]
        if more:
            return together([first, *more], tokens, started)
        return alone(first, tokens, started)

    return answer


def bare_vectors(path: Path, context: int, threads: int) -> Callable[[list[str]], float]:
    """llama_decode over batches that are as full as may be; returns the seconds that it took."""
    from benchmarks.local.bare import BareEncoder

    encoder = BareEncoder(path, context=context, threads=threads)

    def answer(texts: list[str]) -> float:
        started = time.perf_counter()
        encoder.vectors(texts)
        return time.perf_counter() - started

    return answer


def vectors(path: Path, context: int, threads: int) -> Callable[[list[str]], float]:
    """llama-cpp-python's embeddings; returns the seconds that it took."""
    import llama_cpp

    model = llama_cpp.Llama(
        str(path),
        n_ctx=context,
        n_batch=context,
        n_ubatch=context,
        n_threads=threads,
        n_threads_batch=threads,
        embedding=True,
        verbose=False,
    )

    def answer(texts: list[str]) -> float:
        started = time.perf_counter()
        model.embed(texts, normalize=True)
        return time.perf_counter() - started

    return answer


CONTENDERS: dict[str, Callable[[Path, int, int], Callable[..., Any]]] = {
    "bare": bare,
    "bare-no-flash": lambda *arguments: bare(*arguments, flash_attn_type=0),
    "completions": completions,
    "mlx": bare_mlx,
    "bare-vectors": bare_vectors,
    "vectors": vectors,
}

if __name__ == "__main__":
    main()
