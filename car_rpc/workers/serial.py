"""Jobs that are worked on one after the other, a short step at a time."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from car_rpc.errors import CarError

if TYPE_CHECKING:
    from collections.abc import Generator

    from car_rpc.workers.job import Job

#: The work of a job: it yields between steps and returns the result. What it raises as CarError
#: is the job's answer. It is closed when nobody wants the answer any more.
Work: TypeAlias = "Generator[None, None, Any]"


class _Entry(NamedTuple):
    job: Job
    work: Work


class SerialQueue:
    """Works on its jobs in the order in which they came."""

    def __init__(self) -> None:
        self._entries: deque[_Entry] = deque()

    @property
    def jobs(self) -> list[Job]:
        """The jobs that are not answered yet, the one at work first."""
        return [entry.job for entry in self._entries]

    def add(self, job: Job, work: Work) -> None:
        """Queue a job."""
        self._entries.append(_Entry(job, work))

    def step(self) -> bool:
        """Do one step; returns whether there is more to do."""
        if self._entries:
            job, work = self._entries[0]
            try:
                finished = _advance(job, work)
            except CarError as error:
                finished = True
                job.fail(error)
            if finished:
                self._entries.popleft()
        return bool(self._entries)

    def reset(self) -> None:
        """Forget all jobs."""
        entries, self._entries = self._entries, deque()
        for entry in entries:
            entry.work.close()


def _advance(job: Job, work: Work) -> bool:
    """Do a step of a job; returns whether it needs no more."""
    if job.cancelled.is_set():
        work.close()
        return True
    try:
        next(work)
    except StopIteration as end:
        job.reply(end.value)
        return True
    return False
