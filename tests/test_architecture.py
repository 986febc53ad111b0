"""Rules about the code itself that no linter checks: size, reasons, silence, and a light start."""

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "car_rpc"
MODULES = sorted(PACKAGE.rglob("*.py"))

MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 60

# Libraries the core must not load to start: model libraries, and what is only needed later.
HEAVY = (
    "llama_cpp", "mlx", "mlx_lm", "jinja2", "keyring", "numpy", "httpx", "pocketsphinx",
    "safetensors", "soundfile", "soxr", "tokenizers",
)  # fmt: skip

_NOT_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}
_SUPPRESSION = re.compile(r"#\s*(noqa|type:\s*ignore|pyright:\s*ignore|pragma:\s*no cover)")
# A code where the tool knows codes, and then a reason behind a dash, a colon or a second hash.
_EXPLAINED = re.compile(
    r"#\s*(noqa:\s*[A-Z]+[0-9]+(,\s*[A-Z]+[0-9]+)*"
    r"|type:\s*ignore\[[\w-]+(,\s*[\w-]+)*\]"
    r"|pyright:\s*ignore\[\w+(,\s*\w+)*\]"
    r"|pragma:\s*no cover)"
    r"\s*(#|-|:)\s*\w+"
)

SAMPLE = '''"""Module."""
# note

x = """a
b"""

def f():
    """Doc.

    More."""
    return x
'''

Definition = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def tokens(text: str) -> Iterator[tokenize.TokenInfo]:
    return tokenize.generate_tokens(io.StringIO(text).readline)


def docstring_lines(tree: ast.Module) -> set[int]:
    lines: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, Definition) and ast.get_docstring(node, clean=False) is not None:
            docstring = node.body[0]
            lines.update(range(docstring.lineno, (docstring.end_lineno or docstring.lineno) + 1))
    return lines


def code_lines(text: str) -> set[int]:
    """Line numbers that hold code: no blanks, no comments, no docstrings."""
    lines: set[int] = set()
    for token in tokens(text):
        if token.type not in _NOT_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    return lines - docstring_lines(ast.parse(text))


def functions(text: str) -> Iterator[tuple[str, int]]:
    """Each function of a module with its number of code lines."""
    code = code_lines(text)
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            span = range(node.lineno, (node.end_lineno or node.lineno) + 1)
            yield node.name, len(code.intersection(span))


def unexplained(text: str) -> list[str]:
    """Comments that silence a checker without saying which rule and why."""
    comments = (token for token in tokens(text) if token.type == tokenize.COMMENT)
    return [
        f"line {comment.start[0]}: {comment.string}"
        for comment in comments
        if _SUPPRESSION.search(comment.string) and not _EXPLAINED.search(comment.string)
    ]


def dotted(path: Path) -> str:
    """The name a module is imported by."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def loaded_modules(imported: list[str]) -> set[str]:
    """Names of all modules a fresh interpreter has after some imports."""
    script = f"import {', '.join(imported)}, sys; print('\\n'.join(sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return set(done.stdout.split())


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_file_stays_small_enough_to_read_at_once(path: Path) -> None:
    assert len(code_lines(path.read_text(encoding="utf-8"))) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_function_fits_on_a_screen(path: Path) -> None:
    sizes = functions(path.read_text(encoding="utf-8"))
    assert [(function, lines) for function, lines in sizes if lines > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_a_silenced_checker_is_told_which_rule_and_why(path: Path) -> None:
    assert unexplained(path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize("path", MODULES, ids=name)
def test_only_the_command_line_prints(path: Path) -> None:
    if path.relative_to(PACKAGE).parts[0].startswith("cli"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prints = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert prints == [], "stdout belongs to the wire"


@pytest.mark.process
def test_the_core_starts_without_any_heavy_library() -> None:
    core = [dotted(path) for path in MODULES if dotted(path).startswith("car_rpc.host")]
    packages = {module.partition(".")[0] for module in loaded_modules(core)}
    assert len(core) > 1
    assert packages.isdisjoint(HEAVY)


def test_what_a_build_requires_is_what_gets_locked() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    required = settings["build-system"]["requires"]
    assert settings["dependency-groups"]["build"][: len(required)] == required


LOCKS = sorted(
    {*(ROOT / "requirements").glob("*.lock"), ROOT / "benchmarks/wire/requirements.lock"}
)


@pytest.mark.parametrize("lock", LOCKS, ids=name)
def test_a_lock_names_hashes_and_no_index(lock: Path) -> None:
    text = lock.read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text
    pinned = [line for line in text.splitlines() if re.match(r"[\w.-]+==", line)]
    assert pinned
    assert [line for line in pinned if not line.endswith("\\")] == [], "a hash follows each pin"
    assert text.count("\\\n    --hash=sha256:") >= len(pinned)


@pytest.mark.parametrize(
    ("comment", "is_explained"),
    [
        ("# noqa", False),
        ("# noqa: S101", False),
        ("# noqa: S101 - narrows the type", True),
        ("# noqa: S101, BLE001 - the edge of a worker", True),
        ("# type: ignore", False),
        ("# type: ignore[attr-defined]", False),
        ("# type: ignore[attr-defined]  # the library has no types", True),
        ("# pyright: ignore[reportUnknownMemberType] - no types", True),
        ("# pragma: no cover", False),
        ("# pragma: no cover - only on Windows", True),
        ("# an ordinary comment", True),
    ],
)
def test_the_rule_about_reasons_knows_every_form(comment: str, is_explained: bool) -> None:
    assert (unexplained(f"x = 1  {comment}\n") == []) is is_explained


def test_lines_of_code_leave_out_blanks_comments_and_docstrings() -> None:
    assert code_lines(SAMPLE) == {4, 5, 7, 11}
    assert list(functions(SAMPLE)) == [("f", 2)]
