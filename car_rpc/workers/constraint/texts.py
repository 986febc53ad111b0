"""What a schema demands of a text, in terminals of llguidance's kind of Lark."""

from __future__ import annotations

import re
from typing import Any, Final

from llguidance import regex_to_lark

from car_rpc.workers.constraint.schema import UnenforceableError

_YEAR: Final = "[1-9][0-9]{3}"
_DAY: Final = "(0[1-9]|1[0-9]|2[0-8])"
_DATE: Final = f"{_YEAR}-((0[1-9]|1[0-2])-{_DAY}|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31)"
_HOUR: Final = "([01][0-9]|2[0-3]):[0-5][0-9]"
_TIME: Final = rf"{_HOUR}:[0-5][0-9](\.[0-9]{{1,6}})?(Z|[+-]{_HOUR})"
_OCTET: Final = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_LABEL: Final = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"

#: Texts of JSON Schema's formats (Draft 2020-12, validation, section 7.3); not all, but only right
#: ones. The 29th of February is left out.
_FORMATS: Final = {
    "date": _DATE,
    "date-time": f"{_DATE}T{_TIME}",
    "email": f"[A-Za-z0-9_+-]+(\\.[A-Za-z0-9_+-]+)*@{_LABEL}(\\.{_LABEL}){{1,3}}",
    "ipv4": f"{_OCTET}(\\.{_OCTET}){{3}}",
    "time": _TIME,
    "uri": r"https?:\/\/[A-Za-z0-9.-]+(:[0-9]{1,5})?(\/[A-Za-z0-9._~!$&'()*+,;=:@%-]*)*"
    r"(\?[A-Za-z0-9._~!$&'()*+,;=:@\/?-]*)?",
    "uuid": "[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}",
}


def demands_of(schema: dict[str, Any]) -> list[str]:
    """The terminals that a text must match, each as a whole, by its pattern and format.

    Raises:
        UnenforceableError: The format is not known.
    """
    demands: list[str] = []
    if "pattern" in schema:
        demands.append(f"/{regex_to_lark(_whole(schema['pattern']), 'dw')}/")
    if "format" in schema:
        if schema["format"] not in _FORMATS:
            raise UnenforceableError(f'the "format" {schema["format"]!r} cannot be enforced')
        demands.append(f"/{_FORMATS[schema['format']]}/")
    return demands


def length_of(schema: dict[str, Any]) -> str:
    """How often a character may be repeated; empty where no length is demanded."""
    if not {"minLength", "maxLength"} & schema.keys():
        return ""
    return f"{{{schema.get('minLength', 0)},{schema.get('maxLength', '')}}}"


def holding(text: str) -> str:
    """A terminal for texts that hold another one."""
    return f"/(?s:.*){regex_to_lark(re.escape(text), '')}(?s:.*)/"


def _whole(pattern: str) -> str:
    """A pattern that matches the whole of a text in which another one matches something."""
    before = "" if pattern.startswith("^") else "(?s:.*)"
    is_ended = re.search(r"(?<!\\)(\\\\)*\$$", pattern) is not None
    inner = pattern.removeprefix("^")
    return f"{before}(?:{inner[:-1] if is_ended else inner}){'' if is_ended else '(?s:.*)'}"
