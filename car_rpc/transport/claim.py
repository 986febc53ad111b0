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
    ``print`` of Python or C code goes to standard error and never into the wire.

    Raises:
        OSError: Standard input or output is closed.
    """
    reader_fd = _move_above_stdio(0)
    writer_fd = _move_above_stdio(1)
    null_fd = os.open(os.devnull, os.O_RDWR)
    os.dup2(null_fd, 0)
    try:
        os.fstat(2)
    except OSError:  # started without standard error: diagnostics go nowhere
        os.dup2(null_fd, 2)
    os.dup2(2, 1)
    if null_fd > _LAST_STANDARD_FD:
        os.close(null_fd)
    return Claimed(reader_fd, writer_fd)


_LAST_STANDARD_FD = 2


def _move_above_stdio(fd: int) -> int:
    # Python 3.4 (PEP 446) makes os.dup's result non-inheritable. With fd 2 closed a copy
    # could land on 2, where native code would print into the wire.
    copies = [os.dup(fd)]
    while copies[-1] <= _LAST_STANDARD_FD:
        copies.append(os.dup(fd))
    for copy in copies[:-1]:
        os.close(copy)
    return copies[-1]
