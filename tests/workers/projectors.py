"""Projectors with random weights, and pictures and sounds for them."""

import io
import struct
from pathlib import Path
from typing import Any

import gguf
import numpy as np

from tests.workers.conftest import CHAT_TEMPLATE, add_vocabulary

#: Width of the model of :func:`tests.workers.conftest.write_model`.
WIDTH = 64

#: Pixels of the side that a projector sees, and of one of its tokens.
SIDE, PATCH = 64, 16
TOKENS = (SIDE // PATCH) ** 2

LAYERS, HEADS, INNER = 1, 2, 32

#: Tokens of a recording of up to 30 seconds: of 3000 frames each second one, in stacks.
STACK = 30
SOUND_TOKENS = 1500 // STACK


#: Tokens of an image of the projector whose images see all of themselves: more than one chunk.
WHOLE_TOKENS = 18**2


class _Weights:
    """Tensors of random numbers, the same for the same seed."""

    def __init__(self, path: Path, architecture: str, seed: int, lacks: str = "") -> None:
        self.writer: Any = gguf.GGUFWriter(path, architecture)
        self._lacks = lacks
        self._rng = np.random.default_rng(seed)

    def put(self, name: str, *shape: int, scale: float = 0.3, kind: Any = np.float32) -> None:
        values = self._rng.normal(0, scale, shape).astype(kind)
        if not self._lacks or not name.startswith(self._lacks):
            self.writer.add_tensor(name, values)

    def ones(self, name: str, size: int) -> None:
        self.writer.add_tensor(name, np.ones(size, np.float32))

    def close(self) -> None:
        self.writer.write_header_to_file()
        self.writer.write_kv_data_to_file()
        self.writer.write_tensors_to_file()
        self.writer.close()


def write_projector(
    path: Path,
    *,
    width: int = WIDTH,
    sees: bool = True,
    hears: bool = False,
    lacks: str = "",
    seed: int = 1,
) -> Path:
    """Write a projector of the kind of LLaVA, of Ultravox, or both in one.

    Args:
        path: Where it goes.
        width: Width of its model.
        sees: Whether it sees.
        hears: Whether it hears.
        lacks: How the names of the tensors begin that are left out.
        seed: What its weights are drawn from.
    """
    weights = _Weights(path, "clip", seed, lacks)
    writer = weights.writer
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", sees)
    writer.add_bool("clip.has_audio_encoder", hears)
    if sees:
        _add_sizes(writer, "vision", width)
        writer.add_string("clip.vision.projector_type", "mlp")
        _add_picture(writer, PATCH)
        weights.put("v.patch_embd.weight", INNER, 3, PATCH, PATCH, scale=0.02)
        weights.put("v.position_embd.weight", TOKENS, INNER)
        _add_layer(weights, "v.blk.0")  # LLaVA leaves out the last layer: it is only there
        weights.put("mm.0.weight", INNER, INNER)
        weights.put("mm.0.bias", INNER)
        weights.put("mm.2.weight", width, INNER)
        weights.put("mm.2.bias", width)
    if hears:
        _add_sizes(writer, "audio", width)
        writer.add_string("clip.audio.projector_type", "ultravox")
        writer.add_uint32("clip.audio.num_mel_bins", 80)
        writer.add_uint32("clip.audio.projector.stack_factor", STACK)
        for number, channels in ((1, 80), (2, INNER)):
            weights.put(f"a.conv1d.{number}.weight", INNER, channels, 3, kind=np.float16)
            weights.put(f"a.conv1d.{number}.bias", INNER, 1)
        weights.put("a.position_embd.weight", 1500, INNER)
        _add_layer(weights, "a.blk.0", key_bias=False)
        weights.ones("a.post_ln.weight", INNER)
        weights.put("a.post_ln.bias", INNER)
        weights.put("mm.a.mlp.1.weight", 2 * INNER, STACK * INNER, scale=0.05)
        weights.put("mm.a.mlp.2.weight", width, INNER)
        weights.ones("mm.a.norm_pre.weight", STACK * INNER)
        weights.ones("mm.a.norm_mid.weight", INNER)
    weights.close()
    return path


def write_whole_image_projector(path: Path) -> Path:
    """Write a projector of the kind of Gemma 3, where all tokens of an image see each other."""
    weights = _Weights(path, "clip", 3)
    writer = weights.writer
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "gemma3")
    _add_sizes(writer, "vision", WIDTH)
    _add_picture(writer, 4, side=72)
    writer.add_uint32("clip.vision.projector.scale_factor", 1)
    weights.put("v.patch_embd.weight", INNER, 3, 4, 4, scale=0.1)
    weights.put("v.patch_embd.bias", INNER)
    weights.put("v.position_embd.weight", WHOLE_TOKENS, INNER)
    _add_layer(weights, "v.blk.0")
    weights.ones("v.post_ln.weight", INNER)
    weights.put("v.post_ln.bias", INNER)
    weights.put("mm.input_projection.weight", INNER, WIDTH)
    weights.ones("mm.soft_emb_norm.weight", INNER)
    weights.close()
    return path


def write_rows_and_columns(folder: Path) -> tuple[Path, Path]:
    """A model of the kind of Qwen2-VL, which counts rows and columns, and its projector."""
    model = _Weights(folder / "qwen2vl.gguf", "qwen2vl", 1)
    writer = model.writer
    heads, width = 4, WIDTH
    writer.add_name("rows and columns")
    writer.add_context_length(2048)
    writer.add_embedding_length(width)
    writer.add_block_count(2)
    writer.add_feed_forward_length(2 * width)
    writer.add_head_count(heads)
    writer.add_head_count_kv(heads)
    writer.add_layer_norm_rms_eps(1e-6)
    writer.add_rope_dimension_sections([2, 3, 3, 0])
    vocabulary = add_vocabulary(writer)
    writer.add_chat_template(CHAT_TEMPLATE)
    model.put("token_embd.weight", vocabulary, width)
    model.ones("output_norm.weight", width)
    model.put("output.weight", vocabulary, width)
    for layer in range(2):
        block = f"blk.{layer}"
        model.ones(f"{block}.attn_norm.weight", width)
        for part in ("q", "k", "v"):
            model.put(f"{block}.attn_{part}.weight", width, width)
            model.put(f"{block}.attn_{part}.bias", width)
        model.put(f"{block}.attn_output.weight", width, width)
        model.ones(f"{block}.ffn_norm.weight", width)
        model.put(f"{block}.ffn_gate.weight", 2 * width, width)
        model.put(f"{block}.ffn_up.weight", 2 * width, width)
        model.put(f"{block}.ffn_down.weight", width, 2 * width)
    model.close()
    projector = _Weights(folder / "mmproj.gguf", "clip", 2)
    writer = projector.writer
    writer.add_type("mmproj")
    writer.add_bool("clip.has_vision_encoder", True)
    writer.add_string("clip.projector_type", "qwen2vl_merger")
    _add_sizes(writer, "vision", width)
    _add_picture(writer, 14)
    projector.put("v.patch_embd.weight", INNER, 3, 14, 14, scale=0.02)
    projector.put("v.patch_embd.weight.1", INNER, 3, 14, 14, scale=0.02)
    _add_layer(projector, "v.blk.0")
    projector.ones("v.post_ln.weight", INNER)
    projector.put("v.post_ln.bias", INNER)
    projector.put("mm.0.weight", 4 * INNER, 4 * INNER)
    projector.put("mm.0.bias", 4 * INNER)
    projector.put("mm.2.weight", width, 4 * INNER)
    projector.put("mm.2.bias", width)
    projector.close()
    return folder / "qwen2vl.gguf", folder / "mmproj.gguf"


def _add_sizes(writer: Any, kind: str, width: int) -> None:
    writer.add_uint32(f"clip.{kind}.embedding_length", INNER)
    writer.add_uint32(f"clip.{kind}.feed_forward_length", 2 * INNER)
    writer.add_uint32(f"clip.{kind}.block_count", LAYERS)
    writer.add_uint32(f"clip.{kind}.projection_dim", width)
    writer.add_uint32(f"clip.{kind}.attention.head_count", HEADS)
    writer.add_float32(f"clip.{kind}.attention.layer_norm_epsilon", 1e-5)


def _add_picture(writer: Any, patch: int, side: int = SIDE) -> None:
    writer.add_uint32("clip.vision.image_size", side)
    writer.add_uint32("clip.vision.patch_size", patch)
    writer.add_array("clip.vision.image_mean", [0.5, 0.5, 0.5])
    writer.add_array("clip.vision.image_std", [0.5, 0.5, 0.5])


def _add_layer(weights: _Weights, block: str, *, key_bias: bool = True) -> None:
    for part in ("q", "k", "v", "out"):
        weights.put(f"{block}.attn_{part}.weight", INNER, INNER)
        if part != "k" or key_bias:
            weights.put(f"{block}.attn_{part}.bias", INNER)
    for part in ("ln1", "ln2"):
        weights.ones(f"{block}.{part}.weight", INNER)
        weights.put(f"{block}.{part}.bias", INNER)
    weights.put(f"{block}.ffn_up.weight", 2 * INNER, INNER)
    weights.put(f"{block}.ffn_up.bias", 2 * INNER)
    weights.put(f"{block}.ffn_down.weight", INNER, 2 * INNER)
    weights.put(f"{block}.ffn_down.bias", INNER)


def picture(
    color: tuple[int, ...] = (200, 30, 30), size: tuple[int, int] = (40, 30), kind: str = "PNG"
) -> bytes:
    """An image file: a colour that gets darker to the right."""
    from PIL import Image

    width, height = size
    shade = np.linspace(1, 0.5, width)[None, :, None]
    pixels = np.broadcast_to(shade * np.array(color), (height, width, len(color)))
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, kind)
    return file.getvalue()


def tone(frequency: float = 440.0, seconds: float = 0.5, rate: int = 16_000) -> bytes:
    """A WAV file with one tone."""
    times = np.arange(round(seconds * rate)) / rate
    samples = (np.sin(2 * np.pi * frequency * times) * 20_000).astype("<i2").tobytes()
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    body = b"WAVE" + form + struct.pack("<4sI", b"data", len(samples)) + samples
    return b"RIFF" + struct.pack("<I", len(body)) + body
