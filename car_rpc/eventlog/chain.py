"""The hash chain that shows whether the log is as it was written. Pure.

Each event has a hash over the one before, its own place and the hash of its content::

    content hash = SHA-256(salt || JSON [trace_id, conversation_id, attempt] || data)
    hash         = SHA-256(hash of seq - 1 || content hash || JSON [seq, ts, session_id, type])

The salt is random and belongs to one event. Once it is deleted with the content, the content hash
no longer tells what the content was, not even to who guesses it, and the chain still holds.

The chain shows changes by whoever does not compute it anew; it has no key, so it is no
protection from somebody who does.
"""

from __future__ import annotations

from hashlib import sha256

import msgspec

#: Size of a salt, in bytes: as much as cannot be guessed (NIST SP 800-132, section 5.1).
SALT_BYTES = 16

#: The hash before the first one.
ORIGIN = bytes(32)

_encode = msgspec.json.Encoder().encode


def content_hash(
    salt: bytes,
    trace_id: str | None,
    conversation_id: str | None,
    attempt: int | None,
    data: str,
) -> bytes:
    """Hash of what can be deleted of an event."""
    owner = _encode((trace_id, conversation_id, attempt))
    digest = sha256(salt + owner)
    digest.update(data.encode())
    return digest.digest()


def link(
    previous: bytes, content: bytes, seq: int, ts: str, session_id: str, event_type: str
) -> bytes:
    """Hash of an event, from the one before and the hash of its content."""
    return sha256(previous + content + _encode((seq, ts, session_id, event_type))).digest()
