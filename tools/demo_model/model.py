"""Qwen3 in plain torch: the shape of the demo model and its forward pass."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn


@dataclass(frozen=True)
class Shape:
    """Sizes of the network. Multiples of 256 fit the K-quants, and MLX's groups of 64."""

    vocab: int = 1536
    hidden: int = 256
    layers: int = 6
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 64
    ffn: int = 512
    rope_theta: float = 10_000.0
    eps: float = 1e-6

    def as_dict(self) -> dict[str, float]:
        return asdict(self)


class Layer(nn.Module):
    """Pre-norm attention with normalised queries and keys, then SwiGLU."""

    def __init__(self, s: Shape) -> None:
        super().__init__()
        self.s = s
        self.input_norm = nn.Parameter(torch.ones(s.hidden))
        self.q = nn.Parameter(torch.randn(s.heads * s.head_dim, s.hidden) * s.hidden**-0.5)
        self.k = nn.Parameter(torch.randn(s.kv_heads * s.head_dim, s.hidden) * s.hidden**-0.5)
        self.v = nn.Parameter(torch.randn(s.kv_heads * s.head_dim, s.hidden) * s.hidden**-0.5)
        # The branches' last matrices start small, so that the residual stream starts calm.
        small = (2 * s.layers) ** -0.5
        self.o = nn.Parameter(
            torch.randn(s.hidden, s.heads * s.head_dim) * small * (s.heads * s.head_dim) ** -0.5
        )
        self.q_norm = nn.Parameter(torch.ones(s.head_dim))
        self.k_norm = nn.Parameter(torch.ones(s.head_dim))
        self.post_norm = nn.Parameter(torch.ones(s.hidden))
        self.gate = nn.Parameter(torch.randn(s.ffn, s.hidden) * s.hidden**-0.5)
        self.up = nn.Parameter(torch.randn(s.ffn, s.hidden) * s.hidden**-0.5)
        self.down = nn.Parameter(torch.randn(s.hidden, s.ffn) * small * s.ffn**-0.5)

    def forward(self, x: Tensor, rope: tuple[Tensor, Tensor], bf16: bool) -> Tensor:
        s = self.s
        batch, length, _ = x.shape
        dtype = torch.bfloat16 if bf16 else torch.float32
        h = F.rms_norm(x, (s.hidden,), self.input_norm, s.eps).to(dtype)
        q = F.linear(h, self.q.to(dtype)).view(batch, length, s.heads, s.head_dim)
        k = F.linear(h, self.k.to(dtype)).view(batch, length, s.kv_heads, s.head_dim)
        v = F.linear(h, self.v.to(dtype)).view(batch, length, s.kv_heads, s.head_dim)
        q = F.rms_norm(q.float(), (s.head_dim,), self.q_norm, s.eps)
        k = F.rms_norm(k.float(), (s.head_dim,), self.k_norm, s.eps)
        q, k = _rotate(q, *rope).to(dtype).transpose(1, 2), _rotate(k, *rope).to(dtype)
        groups = s.heads // s.kv_heads
        k = k.transpose(1, 2).repeat_interleave(groups, 1)
        v = v.transpose(1, 2).repeat_interleave(groups, 1)
        if length <= 256:
            # torch's fused CPU attention is slower than plain products on short rows.
            scores = (q @ k.transpose(-1, -2)).float() * s.head_dim**-0.5
            mask = torch.ones(length, length, dtype=torch.bool).triu(1)
            att = scores.masked_fill(mask, float("-inf")).softmax(-1).to(dtype) @ v
        else:
            att = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        att = att.transpose(1, 2).reshape(batch, length, s.heads * s.head_dim)
        x = x + F.linear(att, self.o.to(dtype))
        h = F.rms_norm(x, (s.hidden,), self.post_norm, s.eps).to(dtype)
        h = F.silu(F.linear(h, self.gate.to(dtype))) * F.linear(h, self.up.to(dtype))
        return x + F.linear(h, self.down.to(dtype))


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding on halves (the NeoX layout, as in Qwen3)."""
    a, b = x.chunk(2, -1)
    return x * cos + torch.cat((-b, a), -1) * sin


class Qwen3(nn.Module):
    """Token ids in, logits of every position (or of the chosen ones) out; embeddings are tied."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Parameter(torch.randn(shape.vocab, shape.hidden) * 0.02)
        self.blocks = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.Parameter(torch.ones(shape.hidden))

    def forward(self, ids: Tensor, where: Tensor | None = None, bf16: bool = True) -> Tensor:
        """``where`` is a boolean mask of the positions whose logits are wanted."""
        s = self.shape
        half = torch.arange(0, s.head_dim, 2) / s.head_dim
        angles = torch.outer(torch.arange(ids.shape[1]), s.rope_theta**-half)
        angles = torch.cat((angles, angles), -1)[:, None, :]
        rope = (angles.cos(), angles.sin())
        x = F.embedding(ids, self.embedding)
        for block in self.blocks:
            x = block(x, rope, bf16)
        if where is not None:
            x = x[where]
        x = F.rms_norm(x, (s.hidden,), self.norm, s.eps)
        dtype = torch.bfloat16 if bf16 else torch.float32
        return F.linear(x.to(dtype), self.embedding.to(dtype)).float()
