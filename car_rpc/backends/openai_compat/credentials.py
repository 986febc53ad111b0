"""The keys and headers of a request, from the environment and the keychain, and what is secret."""

from __future__ import annotations

import importlib.util
import logging
import re
from collections.abc import Mapping
from typing import NamedTuple

from msgspec import UNSET

from car_rpc.backends.openai_compat.key_pool import Key
from car_rpc.backends.openai_compat.keychain import Keychain
from car_rpc.errors import CarError
from car_rpc.wire.models import KeyringEntry, OpenAICompatSource, SecretReference

logger = logging.getLogger(__name__)

#: RFC 9110: a token; and what a field's value may hold, of which only ASCII is portable.
_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")

#: A shorter value of a header is no secret, and to mask it would garble what a server says.
_SHORTEST_SECRET = 4


class Headers(NamedTuple):
    """What a request is sent with.

    Attributes:
        fields: Names in lower case, and values.
        secrets: Values that must not be repeated anywhere.
    """

    fields: dict[str, str]
    secrets: tuple[str, ...]


class Credentials:
    """Reads secrets at each request.

    Args:
        environ: The environment.
        keychain: The operating system's keychain.
    """

    def __init__(self, environ: Mapping[str, str], keychain: Keychain) -> None:
        self._environ = environ
        self._keychain = keychain

    async def keys(self, source: OpenAICompatSource) -> list[Key]:
        """The keys of a source; none where it names none, or an empty one.

        Raises:
            CarError: ``unauthorized`` when it names keys and none is there.
        """
        names, entries = _key_names(source), _entries(source)
        found = [name for name in names if name in self._environ]
        keys = [key for name in found for key in _split(name, self._environ[name])]
        failures: list[CarError] = []
        for entry in entries:
            name = _name(entry)
            try:
                value = await self._keychain.get(entry)
            except CarError as error:
                failures.append(error)
                continue
            found.append(name)
            keys += [Key(name, value)] if value else []
        if not found and failures:
            raise failures[0]
        if not found and names:
            raise CarError("unauthorized", f"no API key: set the environment variable {names[0]}")
        for failure in failures:
            logger.warning("other keys are used: %s", failure.message)
        return keys

    async def headers(self, source: OpenAICompatSource, key: Key | None) -> Headers:
        """The headers for a source. Without a key there is no ``Authorization``.

        Raises:
            CarError: ``unauthorized`` for a secret that is not there, ``invalid_request`` for a
                header that cannot be sent. Neither repeats a value.
        """
        fields = {
            "accept": "text/event-stream, application/json",
            "content-type": "application/json",
        }
        secrets: list[str] = []
        if key is not None:
            fields["authorization"] = _sendable("the API key", f"Bearer {key.value}")
            secrets.append(key.value)
        given = source.headers if isinstance(source.headers, dict) else {}
        for name, value in given.items():
            if not _NAME.fullmatch(name):
                raise CarError("invalid_request", f"{name[:100]!r} is no name of a header")
            text = value if isinstance(value, str) else await self._secret(value)
            fields[name.lower()] = _sendable(f"the header {name}", text)
            secrets += [text, text.removeprefix("Bearer ")]
        return Headers(fields, tuple(each for each in secrets if len(each) >= _SHORTEST_SECRET))

    def forget(self, source: OpenAICompatSource) -> None:
        """Read the keychain anew for this source: what it gave was refused."""
        headers = source.headers if isinstance(source.headers, dict) else {}
        given = [each.keyring for each in headers.values() if isinstance(each, SecretReference)]
        for entry in [*_entries(source), *given]:
            if isinstance(entry, KeyringEntry):
                self._keychain.forget(entry)

    def has_key(self, source: OpenAICompatSource) -> bool:
        """Whether a key is there, or none is needed. The keychain is not asked: it may be there."""
        first, others, entries = source.api_key_env, source.api_key_envs, source.api_key_keyrings
        if first is UNSET and not others and not entries:
            return True
        if first is not UNSET and first in self._environ:
            return True
        if others and any(name in self._environ for name in others):
            return True
        return bool(entries) and importlib.util.find_spec("keyring") is not None

    def named(self, source: OpenAICompatSource) -> dict[str, bool | None]:
        """Every secret that a source names, and whether it is there; never what it is.

        Of the keychain's that is ``None``: it is not asked, for it may ask the user.
        """
        headers = source.headers if isinstance(source.headers, dict) else {}
        given = [each for each in headers.values() if isinstance(each, SecretReference)]
        names = [*_key_names(source), *(each.env for each in given if each.env is not UNSET)]
        entries = [*_entries(source), *(each.keyring for each in given)]
        return {
            **{name: name in self._environ for name in names},
            **{_name(entry): None for entry in entries if isinstance(entry, KeyringEntry)},
        }

    async def _secret(self, reference: SecretReference) -> str:
        if isinstance(reference.keyring, KeyringEntry):
            return await self._keychain.get(reference.keyring)
        name = "" if reference.env is UNSET else reference.env
        try:
            return self._environ[name]
        except KeyError:
            detail = f"a header needs the environment variable {name}, which is not set"
            raise CarError("unauthorized", detail) from None


def _key_names(source: OpenAICompatSource) -> list[str]:
    first = [] if source.api_key_env is UNSET else [source.api_key_env]
    return list(dict.fromkeys([*first, *(source.api_key_envs or [])]))


def _entries(source: OpenAICompatSource) -> list[KeyringEntry]:
    return list(dict.fromkeys(source.api_key_keyrings or []))


def _name(entry: KeyringEntry) -> str:
    return f"keyring:{entry.service}/{entry.username}"


def _split(name: str, text: str) -> list[Key]:
    """The keys of a variable, which holds one or several, separated by commas."""
    values = [value.strip() for value in text.split(",") if value.strip()]
    if len(values) == 1:
        return [Key(name, values[0])]
    return [Key(f"{name}[{position}]", value) for position, value in enumerate(values)]


def _sendable(what: str, value: str) -> str:
    if not _VALUE.fullmatch(value):
        raise CarError("invalid_request", f"{what} has characters that no header can carry")
    return value
