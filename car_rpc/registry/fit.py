"""Whether a model fits the machine, and which one suits it.

What a local model needs is estimated, from above where it is uncertain::

    memory = weights + caches + process
    weights = size of the files, or parameters x bits of a weight / 8 while they are not here
    caches  = max(1 GiB, bytes per token x tokens of context), for models that generate; those
              of llama.cpp have 256 tokens more (``car_rpc.workers.llama_cpp.generators``)
    process = 512 MiB

The caches are what those of conversations that come in turns come to (``car_rpc.workers.slots``):
room for one request of 8192 tokens, or for several while these take no more than 1 GiB together.
Not counted is what a worker takes beyond that only as far as half of the free memory suffices: up
to eight slots for requests at once and, with llama.cpp, contexts longer than 8192 tokens; and what
it keeps of earlier prompts, which is at most 1 GiB. A model that took such memory counts as what it
takes (``car_rpc.backends.local.workers``). A worker with a model of a few megabytes takes 70 MB;
the rest of the process is an allowance for the buffers to compute in, which grow with the model,
and for an image projector, whose size is not known. A machine gives three quarters of its memory,
so that the system and the app keep theirs; where the graphics processor shares it, two thirds,
which is about what Metal lends (Apple, ``MTLDevice.recommendedMaxWorkingSetSize``).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from typing import Literal

import msgspec
from msgspec import UNSET

from car_rpc.registry.equivalents import equivalent
from car_rpc.wire.models import Cost, Fit, LocalSource, MlxSource, ModelSchema
from car_rpc.wire.search import Machine

#: Tokens of context that a worker makes room for where nobody asks.
CONTEXT_TOKENS = 8192
#: Those of the context that short requests share, for each that runs at once.
SHORT_CONTEXT_TOKENS = 256
CACHES_BYTES = 1024**3
PROCESS_BYTES = 512 * 1024**2

#: Models that are recommended carry it; see :func:`recommended`.
DEFAULT_TAG = "default"

#: Without a graphics processor a model that reads more weights for each token is too slow to
#: talk to: 4 billion in 4 bits are 2.5 GB a token, of the 20 to 60 GB/s of a desktop's memory.
MAX_PARAMETERS_ON_CPU = 4.5e9

#: Bits of a weight on average, scales included (llama.cpp, ``tools/quantize/README.md``, table of
#: Llama 3.1 8B; the simple formats are exact).
BITS_OF_WEIGHT = {
    "F32": 32.0,
    "F16": 16.0,
    "BF16": 16.0,
    "Q8_0": 8.5,
    "Q6_K": 6.56,
    "Q5_K_M": 5.7,
    "Q5_K_S": 5.57,
    "Q5_1": 6.0,
    "Q5_0": 5.5,
    "Q4_K_M": 4.89,
    "Q4_K_S": 4.67,
    "Q4_1": 5.0,
    "Q4_0": 4.5,
    "IQ4_NL": 4.68,
    "IQ4_XS": 4.46,
    "MXFP4": 4.25,
    "Q3_K_L": 4.3,
    "Q3_K_M": 4.0,
    "Q3_K_S": 3.64,
    "Q2_K": 3.16,
    "Q2_K_S": 2.97,
    # MLX: groups of 64 weights with a scale and a bias of 16 bits each.
    "8BIT": 8.5,
    "6BIT": 6.5,
    "5BIT": 5.5,
    "4BIT": 4.5,
    "3BIT": 3.5,
}

#: Models whose fit is remembered; many times what anyone registers.
MAX_JUDGED = 4096

_COUNT = re.compile(r"(\d+(?:\.\d+)?)([MB])(?:-A(\d+(?:\.\d+)?)([MB]))?")
_UNITS = {"M": 1e6, "B": 1e9}


def parameters(model: ModelSchema) -> tuple[float, float] | None:
    """How many parameters a model has and how many of them a token uses, or ``None``."""
    if not isinstance(model.param_count, str):
        return None
    match = _COUNT.fullmatch(model.param_count.upper())
    if match is None:
        return None
    count, unit, active, active_unit = match.groups()
    total = float(count) * _UNITS[unit]
    return total, float(active) * _UNITS[active_unit] if active else total


def parameter_count(text: str) -> float | None:
    """How many parameters a text such as ``30.5B-A3.3B`` says there are, or ``None``."""
    match = _COUNT.fullmatch(text.upper())
    return float(match[1]) * _UNITS[match[2]] if match else None


def weights_bytes(model: ModelSchema) -> int | None:
    """Size of the weights: of their files, or estimated, or 0 where there are none."""
    if not isinstance(model.source, LocalSource | MlxSource):
        return 0
    if isinstance(model.cost, Cost) and isinstance(model.cost.size_bytes, int):
        return model.cost.size_bytes
    counted = parameters(model)
    bits = BITS_OF_WEIGHT.get(str(model.quantization).upper())
    return round(counted[0] * bits / 8) if counted and bits else None


def memory_bytes(model: ModelSchema) -> int | None:
    """Memory that a local model needs, or ``None`` when its size is unknown."""
    if (told := _told_bytes(model)) is not None:
        return told
    weights = weights_bytes(model)
    if weights is None:
        return None
    least = CACHES_BYTES if "generate" in model.capabilities else 0
    return weights + max(_cache_bytes(model), least) + PROCESS_BYTES


def lasting_bytes(model: ModelSchema) -> int:
    """Memory that a local model comes to with one conversation that fills its context.

    It is from below: a process takes more, and so do several conversations. What is not known
    counts as nothing.
    """
    if (told := _told_bytes(model)) is not None:
        return told
    return (weights_bytes(model) or 0) + _cache_bytes(model)


def _told_bytes(model: ModelSchema) -> int | None:
    """What the model's entry says that it takes."""
    told = model.cost.ram_bytes if isinstance(model.cost, Cost) else UNSET
    return told if isinstance(told, int) else None


def _cache_bytes(model: ModelSchema) -> int:
    """Memory for the attention cache of one conversation."""
    per_token = model.cost.kv_bytes_per_token if isinstance(model.cost, Cost) else UNSET
    asked = getattr(model.source, "context_length", UNSET)
    tokens = asked if isinstance(asked, int) else CONTEXT_TOKENS
    tokens = min(tokens, model.context_length or tokens)
    if "generate" in model.capabilities and isinstance(model.source, LocalSource):
        tokens += SHORT_CONTEXT_TOKENS
    return 0 if per_token is UNSET else per_token * tokens


def usable_bytes(machine: Machine) -> int:
    """Memory that models may take, so that the system and the app keep theirs."""
    shared = any(accelerator.kind == "metal" for accelerator in machine.accelerators)
    return machine.memory_total_bytes * 2 // 3 if shared else machine.memory_total_bytes * 3 // 4


def with_fit(model: ModelSchema, machine: Machine) -> ModelSchema:
    """The model with ``fit``, where it takes memory of this machine and that is known."""
    if not isinstance(model.source, LocalSource | MlxSource) or not machine.memory_total_bytes:
        return model
    needed = memory_bytes(model)
    if needed is None:
        return model
    fit = Fit(fits=needed <= usable_bytes(machine), memory_bytes=needed)
    return msgspec.structs.replace(model, fit=fit)


def fits(model: ModelSchema) -> bool:
    """Whether a model that :func:`with_fit` has judged fits; what is unknown does not."""
    if isinstance(model.fit, Fit):
        return model.fit.fits
    return not isinstance(model.source, LocalSource | MlxSource)


class Fitting:
    """Whether models fit the machine, worked out once for each; what is not known does.

    Attributes:
        machine: The machine, once it is known.
    """

    def __init__(self) -> None:
        self.machine: Machine | None = None
        self._judged: dict[str, tuple[ModelSchema, Machine | None, bool]] = {}

    def __call__(self, model: ModelSchema) -> bool:
        """Whether a model fits."""
        judged, machine, answer = self._judged.get(model.id, (None, None, True))
        if judged is not model or machine is not self.machine:
            machine = self.machine
            fit = UNSET if machine is None else with_fit(model, machine).fit
            answer = not isinstance(fit, Fit) or fit.fits
            if len(self._judged) > MAX_JUDGED:
                self._judged.clear()
            self._judged[model.id] = (model, machine, answer)
        return answer


def recommended(
    models: Iterable[ModelSchema], machine: Machine, engines: Collection[str] = ()
) -> ModelSchema | None:
    """The model to chat with on this machine, or ``None`` when none fits.

    It is the largest of those meant for it (:data:`DEFAULT_TAG`) that leaves two fifths of the
    usable memory free, and without a graphics processor also answers at a bearable speed; else the
    smallest that fits at all. On Apple's chips it is taken in MLX's format, and elsewhere in
    llama.cpp's; in the other one where only its engine is installed.

    Args:
        models: All models.
        machine: The machine.
        engines: What is installed of ``local`` and ``mlx``; without any it does not matter.
    """
    models = list(models)
    ladder = sorted(
        (with_fit(model, machine) for model in models if DEFAULT_TAG in model.tags),
        key=lambda model: (memory_bytes(model) or 0, model.id),
    )
    ladder = [model for model in ladder if fits(model)]
    if not ladder:
        return None
    room = usable_bytes(machine) * 3 // 5
    comfortable = [
        model
        for model in ladder
        if (memory_bytes(model) or 0) <= room
        and (machine.accelerators or _active(model) <= MAX_PARAMETERS_ON_CPU)
    ]
    chosen = comfortable[-1] if comfortable else ladder[0]
    has_metal = any(accelerator.kind == "metal" for accelerator in machine.accelerators)
    formats: list[Literal["local", "mlx"]] = ["mlx", "local"] if has_metal else ["local", "mlx"]
    installed: list[Literal["local", "mlx"]] = [each for each in formats if each in engines]
    return equivalent(chosen, (installed or formats)[0], models) or chosen


def _active(model: ModelSchema) -> float:
    counted = parameters(model)
    return counted[1] if counted else 0.0
