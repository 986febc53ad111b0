"""The trainer: two processes of one thread each, which share parameters and gradients.

Two threads in one process collapse on a busy machine (torch's OpenMP pools wait for each other);
two processes do not. Matrices are trained with Muon (momentum whose update is made orthogonal by
five Newton-Schulz steps), the embedding and the norms with Adam.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from batches import Batch, stream
from model import Qwen3, Shape
from tokenizers import Tokenizer
from torch import Tensor

WORK = Path(__file__).parent / "work"
RANKS = 2
WARMUP = 40  #: steps
CONSTANT = 0.35  #: part of the run at full rate, before the linear decay
FLOOR = 0.02  #: of the rate at the end


def rate(step: int, steps: int) -> float:
    """Factor of the learning rates at ``step``."""
    if step < WARMUP:
        return (step + 1) / WARMUP
    done = step / steps
    if done < CONSTANT:
        return 1.0
    return max(FLOOR, 1 - (1 - FLOOR) * (done - CONSTANT) / (1 - CONSTANT))


def orthogonal(g: Tensor) -> Tensor:
    """Newton-Schulz iteration of Muon (Jordan et al., 2024), in bfloat16."""
    x = g.bfloat16()
    tall = x.shape[0] > x.shape[1]
    if tall:
        x = x.T
    x = x / (x.norm() + 1e-7)
    for _ in range(5):
        a = x @ x.T
        x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
    return (x.T if tall else x).float()


class Shared:
    """Parameters, gradients (one per process) and optimizer states in shared memory."""

    def __init__(self, shape: Shape, seed: int) -> None:
        torch.manual_seed(seed)
        model = Qwen3(shape)
        self.shape = shape
        self.names = [n for n, _ in model.named_parameters()]
        self.params = [p.detach().clone().share_memory_() for p in model.parameters()]
        self.grads = [
            [torch.zeros_like(p).share_memory_() for p in self.params] for _ in range(RANKS)
        ]
        self.first = [torch.zeros_like(p).share_memory_() for p in self.params]
        self.second = [torch.zeros_like(p).share_memory_() for p in self.params]
        self.losses = torch.zeros(RANKS).share_memory_()
        self.step, self.stage = 0, 1

    def save(self, path: Path, step: int, args: dict[str, Any]) -> None:
        """Write to a side file first: a stop in the middle costs nothing."""
        state = {
            "shape": self.shape.as_dict(), "step": step, "stage": self.stage, "args": args, "names": self.names,
            "params": self.params, "first": self.first, "second": self.second,
        }  # fmt: skip
        side = path.with_suffix(".tmp")
        torch.save(state, side)
        side.replace(path)

    def load(self, path: Path) -> None:
        state = torch.load(path)
        for kind in ("params", "first", "second"):
            for mine, theirs in zip(getattr(self, kind), state[kind], strict=True):
                mine.copy_(theirs)
        self.step, self.stage = state["step"], state.get("stage", 1)

    def begin_stage(self, stage: int) -> None:
        """Keep the weights, forget the optimizer and the schedule."""
        if stage != self.stage:
            self.step, self.stage = 0, stage
            for moment in (*self.first, *self.second):
                moment.zero_()


def update(shared: Shared, rank: int, step: int, args: argparse.Namespace) -> None:
    """One optimizer step on this process's half of the parameters."""
    factor = rate(step, args.steps)
    for i, p in enumerate(shared.params):
        if i % RANKS != rank:
            continue
        g = (shared.grads[0][i] + shared.grads[1][i]) / RANKS
        m, v = shared.first[i], shared.second[i]
        if p.ndim == 2 and shared.names[i] != "embedding":
            m.lerp_(g, 0.05)
            scale = max(1.0, p.shape[0] / p.shape[1]) ** 0.5
            p.mul_(1 - args.muon * factor * args.decay)
            p.add_(orthogonal(g.lerp(m, 0.95)), alpha=-args.muon * factor * scale)
        else:
            m.lerp_(g, 0.1)
            v.lerp_(g * g, 0.05)
            t = step + 1
            p.addcdiv_(m / (1 - 0.9**t), (v / (1 - 0.95**t)).sqrt() + 1e-8,
                       value=-args.adam * factor)  # fmt: skip


def loss_of(model: Qwen3, batch: Batch, norm: float) -> tuple[Tensor, float]:
    """The loss to differentiate, and the mean loss per unit of weight for the log.

    The weights are normalised by the root of their sum: a batch of one long row neither counts as
    much as forty short ones nor forty times less.
    """
    weights = batch.weights[:, 1:]
    where = F.pad(weights > 0, (0, 1))
    logits = model(batch.ids, where)
    targets, w = batch.ids[:, 1:][weights > 0], weights[weights > 0]
    total = (F.cross_entropy(logits, targets, reduction="none") * w).sum()
    return total / (w.sum() * norm) ** 0.5, float(total.detach() / w.sum())


def work(rank: int, shared: Shared, barrier: Any, args: argparse.Namespace) -> None:
    """The life of one of the two processes."""
    torch.set_num_threads(1)
    model = Qwen3(shared.shape)
    for p, data, grad in zip(model.parameters(), shared.params, shared.grads[rank], strict=True):
        p.data, p.grad = data, grad
    tok = Tokenizer.from_file(str(WORK / "tokenizer.json"))
    begin, tokens, mean = time.monotonic(), 0, 0.0
    seed = args.seed * 1_000_000 + shared.stage * 100_000
    steps = stream(tok, seed, args.budget, RANKS, shared.step, shared.stage)
    last = min(args.stop or args.steps, args.steps)
    for step in range(shared.step, last):
        batch = next(steps)[rank]
        tokens += batch.ids.numel()
        for g in shared.grads[rank]:
            g.zero_()
        loss, shown = loss_of(model, batch, args.norm)
        loss.backward()
        shared.losses[rank] = shown
        barrier.wait()
        with torch.no_grad():
            update(shared, rank, step, args)
        barrier.wait()
        mean = (
            float(shared.losses.mean())
            if mean == 0
            else 0.97 * mean + 0.03 * float(shared.losses.mean())
        )
        if rank == 0:
            if (step + 1) % args.log == 0:
                seconds = time.monotonic() - begin
                print(f"step {step + 1}/{args.steps} loss {mean:.4f} "
                      f"{RANKS * tokens / seconds:.0f} tok/s {seconds:.0f} s", flush=True)  # fmt: skip
            if (step + 1) % args.save == 0 or step + 1 == last:
                shared.save(args.out, step + 1, {k: str(v) for k, v in vars(args).items()})


def main() -> None:
    """Train, or continue from ``--resume``."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2650)
    parser.add_argument("--stop", type=int, help="end here, before the schedule does")
    parser.add_argument(
        "--stage", type=int, default=1, help="2 and 3 start from the weights of --resume"
    )
    parser.add_argument("--budget", type=int, default=3072, help="token slots per process and step")
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--muon", type=float, default=0.02)
    parser.add_argument("--adam", type=float, default=3e-3)
    parser.add_argument("--decay", type=float, default=0.02)
    parser.add_argument(
        "--norm", type=float, default=250.0, help="typical sum of weights of a batch"
    )
    parser.add_argument("--layers", type=int, default=Shape.layers)
    parser.add_argument("--ffn", type=int, default=Shape.ffn)
    parser.add_argument("--log", type=int, default=20)
    parser.add_argument("--save", type=int, default=200)
    parser.add_argument("--out", type=Path, default=WORK / "stage1.pt")
    parser.add_argument("--resume", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    shared = Shared(Shape(layers=args.layers, ffn=args.ffn), args.seed)
    if args.resume:
        shared.load(args.resume)
    shared.begin_stage(args.stage)
    print(f"{sum(p.numel() for p in shared.params) / 1e6:.3f} M parameters", flush=True)
    barrier = mp.get_context("spawn").Barrier(RANKS)
    mp.spawn(work, (shared, barrier, args), nprocs=RANKS)


if __name__ == "__main__":
    main()
