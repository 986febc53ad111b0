"""Folders of MLX weights that are odd, incomplete or no models at all."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from car_rpc.errors import CarError
from car_rpc.wire.worker import Load

pytest.importorskip("mlx_lm")

from car_rpc.workers.chat.prompter import Prompter
from car_rpc.workers.mlx.engine import make_engine
from car_rpc.workers.mlx.folder import open_folder
from car_rpc.workers.mlx.vocab import Vocab
from tests.workers.folders import write_json

pytestmark = pytest.mark.mlx


@pytest.fixture
def folder(model_folder: Callable[..., Path], tmp_path: Path) -> Path:
    """A good model that a test may spoil."""
    return Path(shutil.copytree(model_folder(), tmp_path / "model"))


def failure(path: Path) -> CarError:
    with pytest.raises(CarError) as caught:
        make_engine().load(Load(path=str(path)), lambda _: None)
    assert "Traceback" not in caught.value.detail
    return caught.value


def change(path: Path, **members: Any) -> None:
    value = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**value, **members})


Spoil = Callable[[Path], object]


def remove(name: str) -> Spoil:
    return lambda folder: (folder / name).unlink()


def cut(name: str, kept: int) -> Spoil:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:kept])


def fill(name: str, data: bytes) -> Spoil:
    return lambda folder: (folder / name).write_bytes(data)


def pipe(name: str) -> Spoil:
    def act(folder: Path) -> None:
        (folder / name).unlink()
        os.mkfifo(folder / name)

    return act


def configure(**members: Any) -> Spoil:
    return lambda folder: change(folder / "config.json", **members)


WEIGHTS = "model.safetensors"

BAD_FOLDERS: dict[str, tuple[Spoil, str, str]] = {
    "empty": (lambda f: [each.unlink() for each in f.iterdir()], "", "has no config.json"),
    "no weights": (remove(WEIGHTS), "", "has no weights"),
    "no tokenizer": (remove("tokenizer.json"), "tokenizer.json", "is not there"),
    "weights cut": (cut(WEIGHTS, -1), WEIGHTS, "is truncated or corrupt"),
    "weights cut in half": (cut(WEIGHTS, 200_000), WEIGHTS, "is truncated or corrupt"),
    "weights cut in the header": (cut(WEIGHTS, 100), WEIGHTS, "is truncated or corrupt"),
    "weights empty": (fill(WEIGHTS, b""), WEIGHTS, "is truncated or corrupt"),
    "weights of something else": (fill(WEIGHTS, b"<html>" * 99), WEIGHTS, "is truncated or"),
    "weights from a pipe": (pipe(WEIGHTS), WEIGHTS, "is not there"),
    "a part is missing": (
        fill("model.safetensors.index.json", b'{"weight_map": {"a": "model-2.safetensors"}}'),
        "model-2.safetensors",
        "is not there",
    ),
    "a tensor is missing": (configure(num_hidden_layers=3), "", "cannot be loaded by mlx-lm"),
    "another shape": (configure(hidden_size=128), "", "cannot be loaded by mlx-lm"),
    "unknown architecture": (
        configure(model_type="telepathy"),
        "",
        "(Model type telepathy not supported.)",
    ),
    "no architecture": (configure(model_type=None), "", "cannot be loaded by mlx-lm"),
    "code of its own": (configure(model_file="evil.py"), "", "custom module"),
    "config is no JSON": (fill("config.json", b"{"), "config.json", "is not JSON"),
    "config is too deep": (fill("config.json", b"[" * 10**5), "config.json", "is not JSON"),
    "config from a pipe": (pipe("config.json"), "config.json", "is not there"),
    "tokenizer is none": (fill("tokenizer.json", b"{}"), "tokenizer.json", "is no tokenizer"),
    "tokenizer of words": (
        lambda f: change(f / "tokenizer.json", decoder={"type": "WordPiece", "prefix": "##",
                                                         "cleanup": True}),
        "tokenizer.json",
        "not supported (WordPiece): mlx-lm has no encoders such as BERT; use a GGUF file",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD_FOLDERS)
def test_a_model_that_is_no_good_is_named(folder: Path, case: str) -> None:
    spoil, name, problem = BAD_FOLDERS[case]
    spoil(folder)
    error = failure(folder)
    assert error.kind == "model_load_failed"
    assert error.extra == {"path": str(folder / name)}
    assert error.detail.startswith(f"{folder / name} ")
    assert problem in error.detail


@pytest.mark.parametrize(
    "architectures",
    [["Qwen3ForSequenceClassification"], "ModernBertForSequenceClassification", ["XRewardModel"]],
)
def test_a_model_with_a_head_that_ranks_does_not_rank_without_it(
    folder: Path, architectures: Any
) -> None:
    change(folder / "config.json", architectures=architectures)
    error = failure(folder)
    assert (error.kind, error.extra["path"]) == ("model_load_failed", str(folder))
    name = architectures if isinstance(architectures, str) else architectures[0]
    assert f"a head that ranks or classifies ({name}), which mlx-lm does not" in error.detail
    assert "register a GGUF file of the model" in error.detail
    change(folder / "config.json", architectures=["LlamaForCausalLM", 5])
    make_engine().load(Load(path=str(folder)), lambda _: None)


def test_no_model_is_made_to_rank_by_a_head_that_mlx_lacks(folder: Path) -> None:
    with pytest.raises(CarError) as caught:
        make_engine().load(Load(path=str(folder), pooling="rank"), lambda _: None)
    assert caught.value.kind == "model_load_failed"
    assert "has no head for ranking" in caught.value.detail
    assert "without `pooling`, or a GGUF file" in caught.value.detail


def test_a_file_in_place_of_the_folder_is_explained(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").touch()
    error = failure(tmp_path / "model.gguf")
    assert "is no folder; an MLX model is a folder with config.json" in error.detail


@pytest.mark.parametrize("name", ["absent", "x" * 300])
def test_a_path_that_is_not_there_is_explained(tmp_path: Path, name: str) -> None:
    assert failure(tmp_path / name).kind == "io_error"


def test_the_code_of_a_model_is_never_run(folder: Path, tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'ran')!r}, 'w')"
    (folder / "evil.py").write_text(code, encoding="utf-8")
    change(folder / "config.json", model_file="evil.py", auto_map={"AutoConfig": "evil.X"})
    change(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.X", None]})
    failure(folder)
    assert not (tmp_path / "ran").exists()


def test_weights_larger_than_the_machine_are_refused(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("car_rpc.workers.mlx.model.physical_memory", lambda: 1000)
    error = failure(folder)
    assert (error.kind, error.extra) == ("out_of_memory", {"path": str(folder)})


# ----------------------------------------------------------------- what a folder says of itself


@pytest.mark.parametrize(
    ("members", "tokens"),
    [
        ({"max_position_embeddings": 77}, 77),
        ({"max_position_embeddings": None, "text_config": {"max_position_embeddings": 88}}, 88),
        ({"max_position_embeddings": None, "n_positions": 99}, 99),
        ({"max_position_embeddings": "many"}, 0),
    ],
)
def test_the_longest_context_is_found(folder: Path, members: dict[str, Any], tokens: int) -> None:
    change(folder / "config.json", **members)
    assert open_folder(str(folder)).context_trained == tokens


def test_tokens_that_end_an_answer_are_collected(folder: Path) -> None:
    change(folder / "config.json", eos_token_id=5)
    write_json(folder / "generation_config.json", {"eos_token_id": [6, 7]})
    opened = open_folder(str(folder))
    assert opened.end_tokens == {5, 6, 7}
    vocab = Vocab(opened)
    (named,) = vocab.tokenize("<|im_end|>", special=True)
    assert [vocab.ends(token) for token in (4, 5, 6, 7, named)] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("given", "template"),
    [("one", "one"), ([{"name": "tool_use", "template": "x"},
                       {"name": "default", "template": "two"}], "two"), ([], None), (3, None)],
)  # fmt: skip
def test_the_template_is_found(folder: Path, given: Any, template: str | None) -> None:
    change(folder / "tokenizer_config.json", chat_template=given)
    assert open_folder(str(folder)).chat_template == template
    (folder / "chat_template.jinja").write_text("file", encoding="utf-8")
    assert open_folder(str(folder)).chat_template == "file"


def test_special_tokens_may_be_written_out(folder: Path) -> None:
    change(folder / "tokenizer_config.json", bos_token={"content": "<|endoftext|>"}, eos_token=None)
    opened = open_folder(str(folder))
    assert (opened.bos_text, opened.eos_text) == ("<|endoftext|>", "")


@pytest.mark.parametrize(
    ("eos", "template", "end"),
    [
        ("<|im_end|>", "no end in it", "<|im_end|>"),
        ("<|endoftext|>", "{{ message }}<|im_end|>", "<|im_end|>"),
        ("<|endoftext|>", "{{ message }}{{ eos_token }}", "<|endoftext|>"),
        (None, None, "<|im_end|>"),
    ],
)
def test_a_turn_ends_as_the_template_ends_it(
    folder: Path, eos: str | None, template: str | None, end: str
) -> None:
    change(folder / "tokenizer_config.json", eos_token=eos)
    vocab = Vocab(open_folder(str(folder)))
    prompter = Prompter(vocab, template, "mlx")
    assert vocab.spelling(prompter.end_of_turn) == end.encode()


def test_a_model_that_names_no_end_has_one(folder: Path) -> None:
    change(folder / "tokenizer_config.json", eos_token=None)
    change(folder / "config.json", eos_token_id=None)
    assert Prompter(Vocab(open_folder(str(folder))), None, "mlx").end_of_turn == 0


def test_pieces_of_sentencepiece_are_bytes(folder: Path) -> None:
    space = "\N{LOWER ONE EIGHTH BLOCK}"
    vocab = {"<unk>": 0, f"{space}hi": 1, "<0xF0>": 2, "<0x9F>": 3, "é": 4}
    write_json(
        folder / "tokenizer.json",
        {
            "version": "1.0",
            "added_tokens": [],
            "decoder": {
                "type": "Sequence",
                "decoders": [
                    {"type": "Replace", "pattern": {"String": space}, "content": " "},
                    {"type": "ByteFallback"},
                    {"type": "Fuse"},
                ],
            },
            "model": {
                "type": "BPE",
                "vocab": vocab,
                "merges": [],
                "byte_fallback": True,
                "unk_token": "<unk>",
            },
        },
    )
    spelled = Vocab(open_folder(str(folder)))
    assert [spelled.piece(token) for token in range(1, 6)] == [
        b" hi", b"\xf0", b"\x9f", "é".encode(), b"",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("mode", "pooling"),
    [("lasttoken", "last"), ("cls_token", "cls"), ("mean_tokens", "mean"), (None, "mean")],
)
def test_the_pooling_is_that_of_sentence_transformers(
    folder: Path, mode: str | None, pooling: str
) -> None:
    if mode is not None:
        (folder / "1_Pooling").mkdir()
        write_json(folder / "1_Pooling" / "config.json", {f"pooling_mode_{mode}": True})
    assert open_folder(str(folder)).pooling == pooling
