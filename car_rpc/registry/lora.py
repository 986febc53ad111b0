"""Whether a LoRA adapter in GGUF's format fits a model, told from the headers of both.

llama.cpp refuses most of what does not fit, but ends the process for some of it: for a value of
another type than it expects, and for shapes that first meet when it computes. So nothing comes to
it that was not looked at here. What an adapter holds is what llama.cpp's
``convert_lora_to_gguf.py`` writes and ``llama-adapter.cpp`` reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from car_rpc.registry.gguf import FLOAT32, STRING, Header, Tensor

_GET_ONE = "take one that llama.cpp's convert_lora_to_gguf.py wrote"
_GET_FITTING = "take an adapter that was made for this model"
_FETCH = "fetch or convert it again"

#: What the numbers of an adapter may be (``enum ggml_type``): F32, F16, Q8_0, BF16.
_ADAPTER_KINDS = frozenset({0, 1, 8, 30})

#: On feed-forward weights of this kind llama.cpp takes no adapter (``build_ffn``).
_NVFP4 = 40

_DOWN, _UP = ".lora_a", ".lora_b"

#: Rows of such a matrix are picked out, so the halves of its change are kept turned round.
_LOOKED_UP = "token_embd.weight"

#: llama.cpp passes over what an adapter says of these.
_PASSED_OVER = "_norm.weight"


class Base(NamedTuple):
    """What an adapter is to fit.

    Attributes:
        architecture: What kind of model it is.
        tensors: Its tensors by name, those of all its files.
    """

    architecture: str
    tensors: Mapping[str, Tensor]


def base_of(headers: Iterable[Header]) -> Base:
    """The model that is in some files, of which the first describes it."""
    first, *others = headers
    tensors = {name: each for header in (first, *others) for name, each in header.tensors.items()}
    return Base(_text(first, "general.architecture"), tensors)


def misfit(adapter: Header, base: Base) -> str | None:
    """Why an adapter cannot be used with a model, and what to do; ``None`` where it can."""
    return _no_adapter(adapter) or _made_for_another(adapter, base)


def _no_adapter(adapter: Header) -> str | None:
    general, kind = _text(adapter, "general.type"), _text(adapter, "adapter.type")
    if general != "adapter":
        return f"is no adapter, as its general.type is {general or 'not set'!r}; {_GET_ONE}"
    if kind != "lora":
        return f"is no LoRA adapter, as its adapter.type is {kind or 'not set'!r}; {_GET_ONE}"
    if adapter.kinds.get("adapter.lora.alpha", FLOAT32) != FLOAT32:
        return f"has an adapter.lora.alpha that is no 32-bit number; {_FETCH}"
    if "adapter.alora.invocation_tokens" in adapter.metadata:
        return (
            "is an activated LoRA, which is for what follows certain tokens only; here an adapter"
            " is for the whole text, so take an ordinary one"
        )
    if not any(name.endswith((_DOWN, _UP)) for name in adapter.tensors):
        return f"holds no weights; {_FETCH}"
    return None


def _made_for_another(adapter: Header, base: Base) -> str | None:
    architecture = _text(adapter, "general.architecture")
    if architecture != base.architecture:
        return (
            f"was made for a model of the architecture {architecture or 'unknown'}, and this one is"
            f" {base.architecture or 'unknown'}; {_GET_FITTING}"
        )
    for name in adapter.tensors:
        problem = None if name.endswith(_PASSED_OVER) else _misplaced(name, adapter, base)
        if problem is not None:
            return problem
    return None


def _misplaced(name: str, adapter: Header, base: Base) -> str | None:
    target = name.removesuffix(_DOWN).removesuffix(_UP)
    down, up = adapter.tensors.get(target + _DOWN), adapter.tensors.get(target + _UP)
    if (
        target == name
        or down is None
        or up is None
        or adapter.tensors[name].kind not in _ADAPTER_KINDS
    ):
        return f"has a tensor {name} that no LoRA adapter has, or lacks its other half; {_FETCH}"
    changed = base.tensors.get(target)
    if changed is None:
        return f"changes {target}, which the model does not have; {_GET_FITTING}"
    if changed.kind == _NVFP4 and ".ffn_" in target:
        return f"changes {target}, which llama.cpp cannot as NVFP4; take other weights"
    is_looked_up = target.endswith(_LOOKED_UP)
    if is_looked_up and "output.weight" not in base.tensors:
        return (
            f"changes {target}, by which the model also says what it says; llama.cpp cannot change"
            " it for both, so merge the adapter into the weights"
        )
    if not _fits(changed, down, up, is_looked_up=is_looked_up):
        return f"changes {target}, which has another shape in the model; {_GET_FITTING}"
    return None


def _fits(changed: Tensor, down: Tensor, up: Tensor, *, is_looked_up: bool) -> bool:
    """Whether two matrices, multiplied, have the shape of the one that they change."""
    columns, rows, *experts = _four(changed)
    (width, rank, *down_experts), (up_rank, height, *up_experts) = _four(down), _four(up)
    if is_looked_up:
        rank, width, columns, rows = width, rank, rows, columns
    same = width == columns and height == rows and rank == up_rank and rank > 0
    return same and experts == down_experts == up_experts


def _four(tensor: Tensor) -> tuple[int, ...]:
    return (*tensor.shape, 1, 1, 1, 1)[:4]


def _text(header: Header, key: str) -> str:
    value = header.metadata.get(key)
    return value if header.kinds.get(key) == STRING and isinstance(value, str) else ""
