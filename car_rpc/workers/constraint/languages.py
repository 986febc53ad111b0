"""How languages of calls spell texts and names: Python's, and Gemma's own."""

from __future__ import annotations

import json
import keyword
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from car_rpc.workers.constraint.lark import none_of, one_of, quoted
from car_rpc.workers.constraint.schema import UnenforceableError
from car_rpc.workers.constraint.texts import demands_of, holding, length_of

if TYPE_CHECKING:
    from collections.abc import Iterable

    from car_rpc.workers.constraint.lark import Rules

#: Characters that Python's texts can hold as they are, but for quotes.
_PLAIN: Final = r"\\\x00-\x1f\x7f"
_ESCAPED: Final = r"""\\[\\'"nrt]"""

#: Names that end where their value begins.
_GEMMA_KEY: Final = re.compile(r"[^\s:,{}\[\]<>\"|]+")


class Language(Protocol):
    """How a language spells values.

    Attributes:
        separator: What stands between two items or members.
        colon: What stands between a key and its value.
        sorts: Whether members come in the order of their names.
    """

    separator: str
    colon: str
    sorts: bool

    def text(self, schema: dict[str, Any], rules: Rules) -> str:
        """Any text that a schema allows."""
        ...

    def said(self, text: str, rules: Rules) -> list[str]:
        """The ways to spell a text; none where it cannot be spelled."""
        ...

    def key(self, name: str) -> str:
        """The name of a member, up to its value."""
        ...

    def argument(self, name: str) -> str:
        """The name of an argument, up to its value."""
        ...

    def other_key(self, names: Iterable[str], rules: Rules) -> str:
        """The name of another member, up to its value."""
        ...

    def other_argument(self, names: Iterable[str], rules: Rules) -> str:
        """The name of another argument, up to its value."""
        ...


class Python:
    """Literals of Python, as in ``[f(a=1, b="x")]``."""

    separator = ", "
    colon = ": "
    sorts = False

    def text(self, schema: dict[str, Any], rules: Rules) -> str:
        """A text in either kind of quotes; one with a pattern or format has no escapes."""
        demands, length = demands_of(schema), length_of(schema)
        ways: list[str] = []
        for quote in ('"', "'"):
            plain = f"[^{quote}{_PLAIN}]"
            if demands:
                every = " & ".join([*demands, f"/{plain}{length or '*'}/"])
                inner = rules.terminal(every)
            else:
                inner = rules.terminal(f"/({plain}|{_ESCAPED}){length or '*'}/")
            ways.append(rules.terminal(f"{quoted(quote)} {inner} {quoted(quote)}"))
        return one_of(ways)

    def said(self, text: str, rules: Rules) -> list[str]:
        """The text in either kind of quotes."""
        return self._quoted(text)

    @staticmethod
    def _quoted(text: str) -> list[str]:
        double = json.dumps(text, ensure_ascii=False)
        inner = double[1:-1].replace('\\"', '"').replace("'", "\\'")
        return [quoted(double), quoted(f"'{inner}'")]

    def key(self, name: str) -> str:
        """A text."""
        return f"{one_of(self._quoted(name))} {quoted(self.colon)}"

    def argument(self, name: str) -> str:
        """A name of Python."""
        self.check(name)
        return quoted(f"{name}=")

    @staticmethod
    def check(name: str) -> None:
        """Refuse a name that none is in Python."""
        if not name.isidentifier() or keyword.iskeyword(name):
            raise UnenforceableError(f"{name!r} is no name in Python, in which such models call")

    def other_key(self, names: Iterable[str], rules: Rules) -> str:
        """A text."""
        plain = [f"/[^{quote}{_PLAIN}]*/" for quote in ('"', "'")]
        no = none_of(names)
        ways = [
            rules.terminal(f"{quoted(quote)} {rules.terminal(f'{inner}{no}')} {quoted(quote)}")
            for quote, inner in zip(('"', "'"), plain, strict=True)
        ]
        return f"{one_of(ways)} {quoted(self.colon)}"

    def other_argument(self, names: Iterable[str], rules: Rules) -> str:
        """A name of Python."""
        name = rules.terminal(f"/[A-Za-z_][A-Za-z0-9_]*/{none_of([*names, *keyword.kwlist])}")
        return rules.terminal(f'{name} "="')


class Gemma:
    """Gemma's own language, as in ``call:f{a:1,b:<|"|>x<|"|>}``.

    Args:
        quote: What stands around texts.
    """

    separator = ","
    colon = ":"
    sorts = True

    def __init__(self, quote: str) -> None:
        self._quote = quote

    def text(self, schema: dict[str, Any], rules: Rules) -> str:
        """A text without the marker."""
        demands = [*demands_of(schema), f"/(?s:.){length_of(schema) or '*'}/"]
        inner = rules.terminal(" & ".join([*demands, f"~{holding(self._quote)}"]))
        return f"{rules.said(self._quote)} {rules.ended(inner, self._quote)}"

    def said(self, text: str, rules: Rules) -> list[str]:
        """The text between markers."""
        if self._quote in text:
            return []
        return [f"{rules.said(self._quote)} {rules.ended(quoted(text), self._quote)}"]

    def key(self, name: str) -> str:
        """The bare name."""
        if not _GEMMA_KEY.fullmatch(name):
            raise UnenforceableError(f"{name!r} is no name that such models can say")
        return quoted(name + self.colon)

    argument = key

    def other_key(self, names: Iterable[str], rules: Rules) -> str:
        """A bare name."""
        name = rules.terminal(f"/[A-Za-z_][A-Za-z0-9_]*/{none_of(names)}")
        return rules.terminal(f'{name} ":"')

    other_argument = other_key
