"""The keychain, which may ask, be locked, or not be there at all."""

import asyncio
import builtins
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from car_rpc.backends.openai_compat.keychain import Keychain, read_entry
from car_rpc.errors import CarError
from car_rpc.wire.models import KeyringEntry

ENTRY = KeyringEntry(service="acme", username="me")
SECRET = "the-canary-in-the-keychain"


class Dialog:
    """A keychain that waits until somebody clicks."""

    def __init__(self) -> None:
        self.asked = 0
        self.click = threading.Event()
        self.answer: str | None = SECRET

    def read(self, entry: KeyringEntry) -> str | None:
        self.asked += 1
        self.click.wait(30)
        return self.answer


@pytest.fixture
def dialog() -> Iterator[Dialog]:
    dialog = Dialog()
    yield dialog
    dialog.click.set()


async def refusal(keychain: Keychain) -> str:
    with pytest.raises(CarError) as caught:
        await keychain.get(ENTRY)
    assert caught.value.kind == "unauthorized"
    assert "'me' of 'acme'" in caught.value.message
    return caught.value.message


async def test_an_entry_is_read_once(dialog: Dialog) -> None:
    dialog.click.set()
    keychain = Keychain(dialog.read)
    assert [await keychain.get(ENTRY) for _ in range(3)] == [SECRET] * 3
    assert dialog.asked == 1
    keychain.forget(ENTRY)
    await keychain.get(ENTRY)
    assert dialog.asked == 2


async def test_requests_share_one_dialog_and_the_loop_goes_on_meanwhile(dialog: Dialog) -> None:
    keychain = Keychain(dialog.read)
    waiting = [asyncio.create_task(keychain.get(ENTRY)) for _ in range(5)]
    await asyncio.sleep(0)
    dialog.click.set()
    assert await asyncio.gather(*waiting) == [SECRET] * 5
    assert dialog.asked == 1


async def test_a_request_that_is_cancelled_takes_no_answer_from_the_others(dialog: Dialog) -> None:
    keychain = Keychain(dialog.read)
    gone, stays = (asyncio.create_task(keychain.get(ENTRY)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    await asyncio.wait([gone])
    dialog.click.set()
    assert await stays == SECRET


async def test_a_dialog_that_is_answered_late_serves_the_next_request(dialog: Dialog) -> None:
    keychain = Keychain(dialog.read, limit_s=0)
    for _ in range(2):
        assert "dialog" in await refusal(keychain)
    dialog.click.set()
    lookup = keychain._lookups[ENTRY]
    await asyncio.wrap_future(lookup.future)
    assert await keychain.get(ENTRY) == SECRET
    assert dialog.asked == 1


async def test_an_entry_that_is_not_there_is_looked_for_again(dialog: Dialog) -> None:
    dialog.click.set()
    dialog.answer = None
    keychain = Keychain(dialog.read)
    assert "is not there" in await refusal(keychain)
    dialog.answer = SECRET
    assert await keychain.get(ENTRY) == SECRET


@pytest.mark.parametrize("error", [RuntimeError(SECRET), OSError(SECRET), TimeoutError(SECRET)])
async def test_how_a_keychain_fails_is_told_without_its_words(error: Exception) -> None:
    asked: list[KeyringEntry] = []

    def read(entry: KeyringEntry) -> str | None:
        asked.append(entry)
        raise error

    keychain = Keychain(read)
    for _ in range(2):
        assert SECRET not in await refusal(keychain)
    assert len(asked) == 2


async def test_without_the_library_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name == "keyring":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.delitem(sys.modules, "keyring", raising=False)
    monkeypatch.setattr(builtins, "__import__", without)
    assert "extra `keyring`" in await refusal(Keychain())


async def test_the_real_library_reads_what_was_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring")
    backend = pytest.importorskip("keyring.backend")

    class Memory(backend.KeyringBackend):
        priority = 1

        def __init__(self) -> None:
            super().__init__()
            self.kept: dict[tuple[str, str], str] = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.kept.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.kept[service, username] = password

    before = keyring.get_keyring()
    keyring.set_keyring(Memory())
    try:
        keyring.set_password("acme", "me", SECRET)
        assert await Keychain().get(ENTRY) == SECRET
        assert read_entry(KeyringEntry(service="acme", username="nobody")) is None
    finally:
        keyring.set_keyring(before)
