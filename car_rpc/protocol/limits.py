"""Bounds of a connection that ``initialize`` announces. Imports nothing."""

from __future__ import annotations

#: Deepest nesting of a message. Tool schemas nest 20 levels at most in practice; parsers of
#: other languages stop at 512 (System.Text.Json: 64, serde_json: 128).
MAX_DEPTH = 128

#: Most entries of a batch.
MAX_BATCH = 1000

#: Most requests without a response. Beyond it a client is not waiting for answers.
MAX_IN_FLIGHT = 1024

#: Unread events of one run, in bytes, at which it is failed: the core never stops reading its
#: input because of a stream.
RUNNER_BUFFER_BYTES = 8 * 1024 * 1024
