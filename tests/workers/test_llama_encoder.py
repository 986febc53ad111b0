"""An encoder such as BERT: it embeds and does nothing else."""

from pathlib import Path

import numpy as np
import pytest

from car_rpc.wire.worker import Embed, Failed, Loaded, Reply

pytest.importorskip("llama_cpp")

pytestmark = [pytest.mark.llama, pytest.mark.process]

CONTEXT = 128


def write_encoder(path: Path) -> Path:
    """Write a BERT of random weights that knows the letters as words."""
    import gguf

    kind, space = gguf.TokenType, "\u2581"
    letters = "abcdefghijklmnopqrstuvwxyz"
    special = {"[PAD]": kind.CONTROL, "[UNK]": kind.UNKNOWN, "[CLS]": kind.CONTROL}
    special |= {"[SEP]": kind.CONTROL, "[MASK]": kind.CONTROL}
    tokens = [*special, *(space + letter for letter in letters), *letters]
    types = [*special.values(), *[kind.NORMAL] * (2 * len(letters))]
    layers, heads, width, hidden = 2, 4, 64, 128
    writer = gguf.GGUFWriter(path, "bert")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(width)
    writer.add_block_count(layers)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(heads)
    writer.add_layer_norm_eps(1e-12)
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.CLS)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("bert")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_type_count(2)
    for name, add in {
        "[PAD]": writer.add_pad_token_id,
        "[UNK]": writer.add_unk_token_id,
        "[CLS]": writer.add_bos_token_id,
        "[SEP]": writer.add_sep_token_id,
        "[MASK]": writer.add_mask_token_id,
    }.items():
        add(tokens.index(name))

    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> None:
        writer.add_tensor(name, rng.normal(0, 0.3, shape).astype(np.float32))

    def linear(name: str, outputs: int, inputs: int) -> None:
        weight(f"{name}.weight", outputs, inputs)
        weight(f"{name}.bias", outputs)

    def norm(name: str) -> None:
        weight(f"{name}.weight", width)
        weight(f"{name}.bias", width)

    weight("token_embd.weight", len(tokens), width)
    weight("token_types.weight", 2, width)
    weight("position_embd.weight", CONTEXT, width)
    norm("token_embd_norm")
    for layer in range(layers):
        block = f"blk.{layer}"
        for part in ("attn_q", "attn_k", "attn_v", "attn_output"):
            linear(f"{block}.{part}", width, width)
        linear(f"{block}.ffn_up", hidden, width)
        linear(f"{block}.ffn_down", width, hidden)
        norm(f"{block}.attn_output_norm")
        norm(f"{block}.layer_output_norm")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture
def encoder(start_worker, tmp_path: Path):
    worker = start_worker("llama_cpp")
    loaded = worker.load(write_encoder(tmp_path / "encoder.gguf"))
    assert isinstance(loaded, Loaded)
    assert loaded.context_length == CONTEXT
    return worker


def vectors(worker, *texts: str) -> np.ndarray:
    answer = worker.ask(Embed(id=1, texts=list(texts)))
    assert isinstance(answer, Reply), answer
    return np.frombuffer(answer.result["data"], "<f4").reshape(len(texts), -1)


def test_an_encoder_embeds_many_texts_in_their_order(encoder) -> None:
    texts = ["a b", "", "c " * 100, "a b", *("d" * count for count in range(1, 40))]
    together = vectors(encoder, *texts)
    alone = np.concatenate([vectors(encoder, text) for text in texts])
    np.testing.assert_allclose(together, alone, atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(together[0], together[3], atol=1e-4)


def test_an_encoder_has_a_longest_text(encoder) -> None:
    assert np.isfinite(vectors(encoder, "a " * (CONTEXT - 2))).all()
    answer = encoder.ask(Embed(id=1, texts=["a " * (CONTEXT - 1)]))
    assert isinstance(answer, Failed)
    assert answer.data == {"prompt_tokens": 129, "context_length": 128, "index": 0}


def test_an_encoder_does_not_generate(encoder) -> None:
    answer = encoder.ask(encoder.request())
    assert isinstance(answer, Failed)
    assert answer.detail == (
        "mode generate not implemented on backend llama_cpp: this model only embeds"
    )
