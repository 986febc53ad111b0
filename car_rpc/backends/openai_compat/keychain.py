"""Secrets in the operating system's keychain, by the library ``keyring`` (an extra).

A keychain may ask the user in a dialog, so it is read in a thread, within a time limit. What comes
after the limit is not lost: the next request finds it.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import NamedTuple

from car_rpc.errors import CarError
from car_rpc.wire.models import KeyringEntry

#: How long a request waits for the keychain, in seconds: long enough to answer a dialog.
LIMIT_S = 30.0


def read_entry(entry: KeyringEntry) -> str | None:
    """The secret of an entry, or ``None`` where there is no such entry. Blocks."""
    import keyring  # noqa: PLC0415 - only who names an entry pays for it

    return keyring.get_password(entry.service, entry.username)


class _Lookup(NamedTuple):
    future: Future[str | None]
    until: float


class Keychain:
    """Reads each entry once, and again after it was forgotten, missing or failed.

    Args:
        read: Reads an entry, in a thread.
        limit_s: How long it is waited for.
    """

    def __init__(
        self, read: Callable[[KeyringEntry], str | None] = read_entry, limit_s: float = LIMIT_S
    ) -> None:
        self._read = read
        self._limit_s = limit_s
        self._lookups: dict[KeyringEntry, _Lookup] = {}

    async def get(self, entry: KeyringEntry) -> str:
        """The secret of an entry.

        Raises:
            CarError: ``unauthorized`` when it cannot be had; the text says what to do.
        """
        lookup = self._lookups.get(entry) or self._begin(entry)
        what = f"the keychain's entry for {entry.username!r} of {entry.service!r}"
        try:
            secret = await _result(lookup)
        except TimeoutError:
            if lookup.future.done():  # the keychain's own, and not our limit
                self.forget(entry)
            detail = f"{what} was not given within {self._limit_s:g} s; answer the system's dialog"
            raise CarError("unauthorized", f"{detail}, and try again") from None
        except ImportError:
            self.forget(entry)
            detail = f"{what} cannot be read; install car-rpc with the extra `keyring`"
            raise CarError("unauthorized", detail) from None
        except Exception as error:  # noqa: BLE001 - every keychain fails in a way of its own
            self.forget(entry)
            # Its words may hold anything.
            detail = f"{what} cannot be read ({type(error).__name__}); unlock the keychain"
            raise CarError("unauthorized", f"{detail}, or use an environment variable") from None
        if secret is None:
            self.forget(entry)
            detail = f"{what} is not there; add it with `keyring set`, or as your system does"
            raise CarError("unauthorized", detail)
        return secret.strip()  # what was stored from a pipe ends in a line feed

    def forget(self, entry: KeyringEntry) -> None:
        """Read the entry again the next time."""
        self._lookups.pop(entry, None)

    def _begin(self, entry: KeyringEntry) -> _Lookup:
        future: Future[str | None] = Future()
        future.set_running_or_notify_cancel()  # so that nobody cancels it any more

        def run() -> None:
            try:
                future.set_result(self._read(entry))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

        # A thread that ends with the process: nobody can end a dialog that is never answered.
        threading.Thread(target=run, name="keychain", daemon=True).start()
        lookup = _Lookup(future, asyncio.get_running_loop().time() + self._limit_s)
        self._lookups[entry] = lookup
        return lookup


async def _result(lookup: _Lookup) -> str | None:
    if lookup.future.done():
        return lookup.future.result()
    async with asyncio.timeout_at(lookup.until):
        return await asyncio.shield(asyncio.wrap_future(lookup.future))
