"""What a folder of MLX weights says about itself; checked before the library sees it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from safetensors import SafetensorError, safe_open

from car_rpc.errors import CarError

if TYPE_CHECKING:
    from car_rpc.wire.models import Pooling

_CONFIG = "config.json"
_GENERATION = "generation_config.json"
_TOKENIZER = "tokenizer.json"
_TOKENIZER_CONFIG = "tokenizer_config.json"
_TEMPLATE = "chat_template.jinja"

#: The files that mlx-lm reads weights from, and the table of who holds what.
_WEIGHTS = "model*.safetensors"
_INDEX = "model.safetensors.index.json"

#: Where Sentence Transformers keep the pooling that a model was trained for.
_POOLING = "1_Pooling/config.json"
_POOLING_NAMES: dict[str, Pooling] = {
    "pooling_mode_lasttoken": "last",
    "pooling_mode_cls_token": "cls",
}

#: Members of ``tokenizer_config.json`` that ask for a first token in front of every text.
_ADD_BOS = "add_bos_token"

#: How the architectures end whose last layer gives scores, not words. mlx-lm has none of them: it
#: would leave that layer out, or not know its weights.
_SCORING = ("Classification", "RewardModel")

#: Names of the longest context, in the order in which they count.
_CONTEXT_NAMES = ("max_position_embeddings", "n_positions", "max_seq_len", "seq_length")


class Folder(NamedTuple):
    """A model's folder.

    Attributes:
        path: The folder.
        tokenizer: The file of its tokenizer.
        weight_bytes: Size of the files of its weights.
        context_trained: Tokens of context that it was trained on; 0 when it does not say.
        end_tokens: Tokens that end an answer.
        bos_text: Spelling of the token that begins a text; empty when there is none.
        eos_text: Spelling of the token that ends a text; empty when there is none.
        adds_bos: Whether the first token belongs in front of every text.
        chat_template: Its Jinja template, if it has one.
        pooling: How the vectors of its tokens become one.
    """

    path: Path
    tokenizer: Path
    weight_bytes: int
    context_trained: int
    end_tokens: frozenset[int]
    bos_text: str
    eos_text: str
    adds_bos: bool
    chat_template: str | None
    pooling: Pooling


def open_folder(path: str) -> Folder:
    """Read everything but the weights, of which only the form is checked.

    Raises:
        CarError: The folder is not there (``io_error``), or it is no usable model
            (``model_load_failed``).
    """
    folder = Path(path)
    _check_folder(folder)
    config = read_json(folder / _CONFIG)
    _check_architecture(folder, config)
    generation = read_json(folder / _GENERATION, needed=False)
    tokenizer = read_json(folder / _TOKENIZER_CONFIG, needed=False)
    return Folder(
        path=folder,
        tokenizer=_file(folder / _TOKENIZER),
        weight_bytes=_check_weights(folder),
        context_trained=_context(config),
        end_tokens=frozenset([*_ids(config), *_ids(generation)]),
        bos_text=_spelling(tokenizer.get("bos_token")),
        eos_text=_spelling(tokenizer.get("eos_token")),
        adds_bos=tokenizer.get(_ADD_BOS) is True,
        chat_template=_template(folder / _TEMPLATE, tokenizer.get("chat_template")),
        pooling=_pooling(read_json(folder / _POOLING, needed=False)),
    )


def unusable(path: Path, problem: str) -> CarError:
    """The error for a model that cannot be loaded."""
    return CarError("model_load_failed", f"{path} {problem}", path=str(path))


def _check_folder(path: Path) -> None:
    try:
        is_folder = path.is_dir()
        names = [entry.name for entry in path.iterdir()] if is_folder else []
        exists = is_folder or path.exists()
    except OSError as error:
        raise _unreadable(path, error) from error
    if not exists:
        raise CarError("io_error", f"{path} is not there; check the path", path=str(path))
    if not is_folder or _CONFIG not in names:
        what = f"has no {_CONFIG}" if is_folder else "is no folder"
        raise unusable(
            path, f"{what}; an MLX model is a folder with {_CONFIG}, {_TOKENIZER} and {_WEIGHTS}"
        )


def _check_architecture(path: Path, config: dict[str, Any]) -> None:
    given = config.get("architectures")
    for name in [given, *_items(given)]:
        if isinstance(name, str) and name.endswith(_SCORING):
            raise unusable(
                path,
                f"has a head that ranks or classifies ({name}), which mlx-lm does not compute;"
                " register a GGUF file of the model, with whose head llama.cpp ranks",
            )


def _file(path: Path) -> Path:
    # Opening a named pipe would wait for its other end.
    if not path.is_file():
        raise unusable(path, "is not there; fetch the model again, with all its files")
    return path


def read_json(path: Path, *, needed: bool = True) -> dict[str, Any]:
    """A file of settings; empty where it is not there and not needed.

    Raises:
        CarError: It is not there, or cannot be read as JSON.
    """
    if not needed and not path.exists():
        return {}
    try:
        value: Any = json.loads(_file(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise _unreadable(path, error) from error
    except (ValueError, RecursionError) as error:
        raise unusable(path, f"is not JSON ({error}); fetch it again") from error
    return _members(value)


def _check_weights(folder: Path) -> int:
    """Check that no file of weights is missing or cut; returns their size in bytes."""
    files = sorted(folder.glob(_WEIGHTS))
    table = _members(read_json(folder / _INDEX, needed=False).get("weight_map"))
    for name in sorted(set(map(str, table.values())) - {file.name for file in files}):
        _file(folder / name)
    if not files:
        raise unusable(folder, f"has no weights ({_WEIGHTS}); fetch the model again")
    for file in files:
        tensor_names(file)
    return sum(file.stat().st_size for file in files)


def tensor_names(path: Path) -> list[str]:
    """Names of the tensors in a file of weights.

    Raises:
        CarError: It is not there, is cut or is none.
    """
    try:
        opened: Any = safe_open(_file(path), framework="numpy")
        with opened as file:
            return list(file.keys())
    except OSError as error:
        raise _unreadable(path, error) from error
    except SafetensorError as error:
        raise unusable(path, f"is truncated or corrupt ({error}); fetch it again") from error


def _context(config: dict[str, Any]) -> int:
    for part in (config, _members(config.get("text_config"))):  # of models that also see or hear
        for name in _CONTEXT_NAMES:
            length = part.get(name)
            if isinstance(length, int) and length > 0:
                return length
    return 0


def _ids(config: dict[str, Any]) -> list[int]:
    given = config.get("eos_token_id")
    return [token for token in [given, *_items(given)] if isinstance(token, int)]


def _spelling(token: Any) -> str:
    content = _members(token).get("content", token)  # an added token may be written out
    return content if isinstance(content, str) else ""


def _template(file: Path, given: Any) -> str | None:
    """The template; one in a file of its own counts before one among the tokenizer's settings."""
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8", errors="replace")
        except OSError as error:
            raise _unreadable(file, error) from error
    for entry in map(_members, _items(given)):  # several by name
        if entry.get("name") == "default":
            given = entry.get("template")
    return given if isinstance(given, str) else None


def _pooling(config: dict[str, Any]) -> Pooling:
    for name, pooling in _POOLING_NAMES.items():
        if config.get(name) is True:
            return pooling
    return "mean"


def _members(value: Any) -> dict[str, Any]:
    """The value if it is an object, else an empty one."""
    return cast("dict[str, Any]", value) if isinstance(value, dict) else {}


def _items(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one."""
    return value if isinstance(value, list) else []  # pyright: ignore[reportUnknownVariableType] - of JSON


def _unreadable(path: Path, error: OSError) -> CarError:
    return CarError(
        "io_error", f"cannot read {path}: {error.strerror}; check the path", path=str(path)
    )
