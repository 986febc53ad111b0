"""Byte-level BPE, trained on the corpus.

The pre-tokenizer is Qwen2's split expression, so that llama.cpp's ``qwen2`` pre-tokenizer gives the
same tokens. There is no Unicode normalizer, because llama.cpp applies none.
"""

from __future__ import annotations

from pathlib import Path

from corpus import sample_stream, texts
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

VOCAB_SIZE = 1536
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
USER_DEFINED = ["<think>", "</think>", "<tool_call>", "</tool_call>"]
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
EXTRA = [
    "abcdefghijklmnopqrstuvwxyz ABCDEFGHIJKLMNOPQRSTUVWXYZ 0123456789",
    "The quick answer: it depends (or not)... <b>bold</b> & \"quotes\" 'single' #1 @you 50% $9 a/b",
]


def train(samples: int, seed: int) -> Tokenizer:
    """Learn the merges from ``samples`` conversations and put the special tokens last."""
    tok = Tokenizer(models.BPE())
    tok.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(SPLIT), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tok.decoder = decoders.ByteLevel()
    stream = sample_stream(seed)

    def lines() -> list[str]:
        out = list(EXTRA)
        for _ in range(samples):
            prompt, answer = texts(next(stream))
            text = prompt + answer
            for special in CONTROL + USER_DEFINED:
                text = text.replace(special, "\n\n")
            out.append(text)
        return out

    tok.train_from_iterator(
        lines(),
        trainers.BpeTrainer(
            vocab_size=VOCAB_SIZE - len(CONTROL) - len(USER_DEFINED),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in CONTROL])
    tok.add_tokens([AddedToken(t, special=False, normalized=False) for t in USER_DEFINED])
    if tok.get_vocab_size() != VOCAB_SIZE:
        raise ValueError(f"the corpus gives {tok.get_vocab_size()} tokens, not {VOCAB_SIZE}")
    return tok


def main() -> None:
    """Train on 20,000 samples and write ``work/tokenizer.json``."""
    out = Path(__file__).parent / "work"
    out.mkdir(exist_ok=True)
    tok = train(20_000, seed=1)
    tok.save(str(out / "tokenizer.json"))
    prompt = texts(next(sample_stream(2)))[0]
    print(f"tokenizer: {len(prompt) / len(tok.encode(prompt).ids):.2f} characters per token")


if __name__ == "__main__":
    main()
