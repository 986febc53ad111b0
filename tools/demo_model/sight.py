"""A projector with which the demo model names the colour of a picture.

The demo model stays as it is. What is trained is what llama.cpp calls a projector of the kind
``mlp`` (LLaVA): each of four patches of a picture becomes a vector by one convolution and two
layers, and the model reads it in place of a token. It is a toy that proves that pictures get
through. ``look.py`` measures it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
import torch.nn.functional as F
from colors import COLORS, MARK, QUESTIONS, SIDE, draw
from export import LAYER_NAMES
from model import Qwen3, Shape
from template import render
from tokenizers import Tokenizer
from torch import Tensor, nn

HERE = Path(__file__).parent
DEMO = HERE.parents[1] / "car_rpc" / "data" / "demo"

PATCH, WIDTH, INNER = 16, 16, 128
TOKENS = (SIDE // PATCH) ** 2


class Sight(nn.Module):
    """Pictures in, vectors for the model out; the names of its tensors are in :func:`export`."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, WIDTH, PATCH, PATCH, bias=False)
        self.place = nn.Parameter(torch.randn(TOKENS, WIDTH) * 0.02)
        self.first, self.second = nn.Linear(WIDTH, INNER), nn.Linear(INNER, hidden)

    def forward(self, pictures: Tensor) -> Tensor:
        x = self.patch(pictures).flatten(2).transpose(1, 2) + self.place
        return self.second(F.gelu(self.first(x), approximate="tanh"))


def load_model(path: Path) -> Qwen3:
    """The demo model out of its GGUF file."""
    reader = gguf.GGUFReader(path)
    tensors = {each.name: np.array(each.data, np.float32) for each in reader.tensors}
    layers = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blk."))
    model = Qwen3(Shape(layers=layers))
    with torch.no_grad():
        model.embedding.copy_(torch.from_numpy(tensors["token_embd.weight"]))
        model.norm.copy_(torch.from_numpy(tensors["output_norm.weight"]))
        for index, block in enumerate(model.blocks):
            for name, stored in LAYER_NAMES.items():
                value = tensors[f"blk.{index}.{stored}.weight"]
                getattr(block, name).copy_(torch.from_numpy(value))
    return model.requires_grad_(requires_grad=False)


def seen(pictures: np.ndarray) -> Tensor:
    """As llama.cpp prepares them: from -1 to 1, channels first."""
    return torch.from_numpy(pictures / 127.5 - 1).float().permute(0, 3, 1, 2)


class Prompts:
    """Every question, asked without thinking, and its answer for every colour."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.ids: dict[tuple[int, str], tuple[list[int], int, list[int]]] = {}
        for number, question in enumerate(QUESTIONS):
            prompt = render([{"role": "user", "content": question}], thinking=False)
            before, after = (_ids(tokenizer, part) for part in prompt.split(MARK))
            for color in COLORS:
                answer = _ids(tokenizer, f"It is {color}.<|im_end|>")
                self.ids[number, color] = ([*before, *after], len(before), answer)


def _ids(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False).ids)


def loss_of(model: Qwen3, sight: Sight, prompts: Prompts, rng: Any, batch: int) -> Tensor:
    """How badly a batch is answered; all its rows have one question, and so one length."""
    number = int(rng.integers(len(QUESTIONS)))
    colors = [list(COLORS)[int(n)] for n in rng.integers(len(COLORS), size=batch)]
    pictures = sight(seen(np.stack([draw(rng, color) for color in colors])))
    rows = [prompts.ids[number, color] for color in colors]
    longest = max(len(ids) + len(answer) for ids, _, answer in rows)
    texts = torch.zeros(batch, longest, dtype=torch.long)
    wanted = torch.full((batch, longest + TOKENS), -100)
    at = rows[0][1]
    for n, (ids, _, answer) in enumerate(rows):
        texts[n, : len(ids) + len(answer)] = torch.tensor([*ids, *answer])
        start = len(ids) + TOKENS - 1  # each position says what follows it
        wanted[n, start : start + len(answer)] = torch.tensor(answer)
    words = F.embedding(texts, model.embedding)
    x = torch.cat((words[:, :at], pictures, words[:, at:]), 1)
    return F.cross_entropy(_logits(model, x).flatten(0, 1), wanted.flatten())


def _logits(model: Qwen3, x: Tensor) -> Tensor:
    s = model.shape
    half = torch.arange(0, s.head_dim, 2) / s.head_dim
    angles = torch.outer(torch.arange(x.shape[1]), s.rope_theta**-half)
    angles = torch.cat((angles, angles), -1)[:, None, :]
    for block in model.blocks:
        x = block(x, (angles.cos(), angles.sin()), False)
    return F.linear(F.rms_norm(x, (s.hidden,), model.norm, s.eps), model.embedding)


def export(sight: Sight, out: Path, hidden: int) -> None:
    """Write what llama.cpp loads as a projector."""
    writer = gguf.GGUFWriter(out, "clip")
    writer.add_type("mmproj")
    writer.add_name("tiny-sight")
    writer.add_description("Lets the demo model of car-rpc name a colour: for tests")
    writer.add_license("apache-2.0")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "mlp")
    sizes = {
        "embedding_length": WIDTH, "feed_forward_length": WIDTH, "block_count": 1,
        "projection_dim": hidden, "attention.head_count": 1, "image_size": SIDE,
        "patch_size": PATCH,
    }  # fmt: skip
    for name, size in sizes.items():
        writer.add_uint32(f"clip.vision.{name}", size)
    writer.add_float32("clip.vision.attention.layer_norm_epsilon", 1e-5)
    writer.add_array("clip.vision.image_mean", [0.5] * 3)
    writer.add_array("clip.vision.image_std", [0.5] * 3)
    tensors = {
        "v.patch_embd.weight": sight.patch.weight, "v.position_embd.weight": sight.place,
        "mm.0.weight": sight.first.weight, "mm.0.bias": sight.first.bias,
        "mm.2.weight": sight.second.weight, "mm.2.bias": sight.second.bias,
    }  # fmt: skip
    # LLaVA leaves out the last layer of its encoder: this one is never computed.
    for part in ("attn_q", "attn_k", "attn_v", "attn_out", "ffn_up", "ffn_down"):
        tensors[f"v.blk.0.{part}.weight"] = torch.zeros(WIDTH, WIDTH)
    tensors |= {f"v.blk.0.{part}.weight": torch.ones(WIDTH) for part in ("ln1", "ln2")}
    for name, value in tensors.items():
        writer.add_tensor(name, value.detach().float().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main() -> None:
    """Train and export."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, default=DEMO / "tiny-chat-F16.gguf")
    parser.add_argument("--tokenizer", type=Path, default=DEMO / "mlx" / "tokenizer.json")
    parser.add_argument("--out", type=Path, default=DEMO / "tiny-sight.gguf")
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=7)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    model = load_model(args.model)
    prompts = Prompts(Tokenizer.from_file(str(args.tokenizer)))
    sight = Sight(model.shape.hidden)
    with torch.no_grad():  # vectors as large as those of words
        sight.second.weight *= model.embedding.std() / 0.06
    optimizer = torch.optim.AdamW(sight.parameters(), lr=4e-3, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, args.steps)
    begun = time.perf_counter()
    for step in range(args.steps):
        loss = loss_of(model, sight, prompts, rng, batch=12)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 50 == 0 or step == args.steps - 1:
            print(
                f"{step:5} loss {loss.item():.4f} {time.perf_counter() - begun:.0f} s", flush=True
            )
            export(sight, args.out, model.shape.hidden)
    print(f"{args.out.name}: {args.out.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
