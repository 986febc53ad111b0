"""How many threads compute, by what other processes leave of the cores.

Threads that work on one token wait for each other hundreds of times. Where another process holds
one of their cores, all wait for its turn to end, and a token takes ten to forty times as long;
one thread fewer than there are cores to have is then by far the faster choice.
"""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

#: How long others are watched before the number of threads follows them, in seconds. The kernel
#: counts in hundredths.
WINDOW_S = 0.5

#: Below this size a token takes so little work that threads mostly wait for each other.
_SMALL_MODEL_BYTES = 8 * 1024 * 1024

#: How often is looked again at who wants a core, and after how many seconds.
_MORE_LOOKS, _PAUSE_S = 2, 0.001

_PROC_STAT = Path("/proc/stat")
_CGROUP = Path("/sys/fs/cgroup")


class Usage(NamedTuple):
    """Processor time that was used up to now.

    Attributes:
        all_s: By everybody, on the cores that this process may use, in seconds.
        own_s: By this process, in seconds.
    """

    all_s: float
    own_s: float


class Threads:
    """The number of threads to compute with.

    Args:
        most: On an idle machine.
        cores: How many this process may use.
        usage: Tells how much processor time was used; ``None`` where that cannot be told, which
            leaves the number as it is.
        rivals: Tells how many threads of others want those cores at this moment.
        clock: Seconds.
    """

    def __init__(
        self,
        most: int,
        cores: int,
        usage: Callable[[], Usage | None],
        rivals: Callable[[], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        #: The most that it ever asks for.
        self.most = most
        self._cores = cores
        self._usage = usage
        self._rivals = rivals
        self._clock = clock
        self._count = most
        self._since = clock()
        self._seen = usage()

    def count(self) -> int:
        """The number for the next batch."""
        elapsed = self._clock() - self._since
        if self._seen is not None and elapsed >= WINDOW_S:
            now = self._usage()
            if now is not None:
                own_s = now.own_s - self._seen.own_s
                others_s = (now.all_s - self._seen.all_s) - own_s
                # Half a core counts as taken: whoever uses half of one uses it in turns. Where
                # nothing was computed here most of the time, that time tells nothing of now.
                was_idle = own_s < elapsed / 2
                taken = self._rivals() if was_idle else math.floor(others_s / elapsed + 0.5)
                self._count = max(1, min(self.most, self._cores - taken))
            self._since, self._seen = self._clock(), now
        return self._count


def threads_for(model_bytes: int) -> Threads:
    """Threads for a model: all cores of a small machine, all but one of a larger one.

    Args:
        model_bytes: Size of the weights.
    """
    cores = usable_cores()
    most = 1 if model_bytes < _SMALL_MODEL_BYTES else max(cores - 1, min(cores, 2))
    return Threads(most, cores, processor_usage, lambda: rivals(cores))


def usable_cores(cgroup: Path = _CGROUP) -> int:
    """Cores that this process may use: those it is bound to, within its container's quota."""
    return max(1, math.floor(min(len(_affinity()), _quota(cgroup))))


def processor_usage(proc_stat: Path = _PROC_STAT) -> Usage | None:
    """What was used up to now; ``None`` on systems without ``/proc``."""
    try:
        text = proc_stat.read_text(encoding="ascii")
    except OSError:
        return None
    return Usage(_busy_s(text, _affinity()), time.process_time())


def rivals(
    cores: int,
    proc_stat: Path = _PROC_STAT,
    pause: Callable[[float], None] = time.sleep,  # noqa: TID251 - a worker's thread has no loop
) -> int:
    """Threads of others that want the cores of this process at this moment.

    Args:
        cores: How many these are.
        proc_stat: Where the kernel says how many threads run or wait for a core (proc_stat(5)).
        pause: Waits so many seconds.

    Returns:
        The fewest in some looks in a row, as programs that pass on a message are none; 0 where
        that cannot be told.
    """
    elsewhere = (os.cpu_count() or cores) - cores
    fewest = _runnable(proc_stat)
    for _ in range(_MORE_LOOKS):
        if fewest <= elsewhere:
            return 0
        pause(_PAUSE_S)
        fewest = min(fewest, _runnable(proc_stat))
    return max(0, fewest - elsewhere)


def _runnable(proc_stat: Path) -> int:
    """Threads of the machine that run or wait for a core, beside the one that asks."""
    try:
        text = proc_stat.read_text(encoding="ascii")
    except OSError:
        return 0
    return int(text.partition("\nprocs_running ")[2].split(maxsplit=1)[0]) - 1


def _busy_s(text: str, cores: Collection[int]) -> float:
    """Seconds that some cores were not idle (proc_stat(5)); what a hypervisor took counts."""
    ticks = 0
    names = {f"cpu{core}" for core in cores}
    for line in text.splitlines():
        name, *values = line.split()
        if name in names:
            user, nice, system, _idle, _iowait, *others = map(int, values[:8])
            ticks += user + nice + system + sum(others)
    return ticks / os.sysconf("SC_CLK_TCK")


def _affinity() -> Collection[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return range(os.cpu_count() or 1)


def _quota(cgroup: Path) -> float:
    """Cores that a container may use, as its kernel says (cgroups v2, then v1)."""
    try:
        if (limit := cgroup / "cpu.max").exists():
            quota, period = limit.read_text(encoding="ascii").split()
        else:
            quota = (cgroup / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        cores = int(quota) / int(period)
    except (OSError, ValueError):  # no limit: there is no file, or it says "max"
        return math.inf
    return cores if cores > 0 else math.inf  # v1 says -1
