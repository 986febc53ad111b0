"""Claim the standard streams before anything else is imported.

File descriptor 1 belongs to the wire. Libraries print, native code most of all, so the
process moves its wire to private descriptors at once and points 0 and 1 elsewhere. Only
``os`` is imported here, because whatever is imported earlier could already print.
"""

from __future__ import annotations

import os
from typing import NamedTuple


class Claimed(NamedTuple):
    """Private descriptors of the wire; they are not inherited by child processes."""

    reader_fd: int
    writer_fd: int


def claim_stdio() -> Claimed:
    """Move stdin and stdout to private descriptors.

    Afterwards fd 0 reads from the null device and fd 1 is a copy of fd 2, so a stray
    ``print`` of Python or C code goes to standard error and never into the wire. A stream that
    is closed counts as the null device: an input that has ended, an output that nobody reads.
    """
    null_fd = os.open(os.devnull, os.O_RDWR)
    for fd in _STANDARD_FDS:
        try:
            os.fstat(fd)
        except OSError:
            os.dup2(null_fd, fd)
    # All three are open now, so the copies lie above them; os.dup makes them non-inheritable
    # (PEP 446).
    claimed = Claimed(os.dup(0), os.dup(1))
    os.dup2(null_fd, 0)
    os.dup2(2, 1)
    if null_fd not in _STANDARD_FDS:
        os.close(null_fd)
    return claimed


_STANDARD_FDS = range(3)
