"""What this process may use of its machine: memory, processor cores, accelerators.

Everything is read from the operating system's own text, through :class:`System`, so that a test
can hand in any machine. No driver's library is loaded.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterator
from math import ceil
from pathlib import Path, PurePosixPath
from typing import Protocol

from car_rpc.wire.search import Accelerator, Machine

#: How long a program of the system may take to tell of its hardware, in seconds.
RUN_TIMEOUT_S = 5.0

#: Longest text that is read, in bytes: /proc/cpuinfo of hundreds of cores is shorter.
MAX_TEXT_BYTES = 1024 * 1024

_MIB = 1024**2
_AMD = "0x1002"


class System(Protocol):
    """The operating system, as text."""

    name: str
    """As ``platform.system()``."""
    machine: str
    """As ``platform.machine()``."""
    usable_cores: int
    """Cores that the process may run on; 0 when that is unknown."""

    def read(self, path: str) -> str:
        """Content of a file; empty when it cannot be read."""
        ...

    def names(self, path: str) -> list[str]:
        """Sorted names in a folder; empty when it cannot be read."""
        ...

    def run(self, *command: str) -> str:
        """What a program prints; empty when it cannot be run or fails."""
        ...


class ThisSystem:
    """The machine that this process runs on.

    Args:
        root: Folder that stands for the root of its files.
    """

    def __init__(self, root: Path = Path("/")) -> None:
        self.name = platform.system()
        self.machine = platform.machine()
        affinity = getattr(os, "sched_getaffinity", None)
        self.usable_cores: int = len(affinity(0)) if affinity else os.cpu_count() or 0
        self._root = root

    def read(self, path: str) -> str:
        """Content of a file; empty when it cannot be read."""
        try:
            with (self._root / path.lstrip("/")).open("rb") as file:
                return file.read(MAX_TEXT_BYTES).decode("utf-8", "replace")
        except OSError:
            return ""

    def names(self, path: str) -> list[str]:
        """Sorted names in a folder; empty when it cannot be read."""
        try:
            return sorted(entry.name for entry in (self._root / path.lstrip("/")).iterdir())
        except OSError:
            return []

    def run(self, *command: str) -> str:
        """What a program prints; empty when it cannot be run or fails."""
        try:
            done = subprocess.run(
                command,
                capture_output=True,
                stdin=subprocess.DEVNULL,
                timeout=RUN_TIMEOUT_S,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        return done.stdout[:MAX_TEXT_BYTES].decode("utf-8", "replace")


def detect(system: System | None = None) -> Machine:
    """What there is. Takes milliseconds, with an NVIDIA driver longer: not for the event loop."""
    system = system or ThisSystem()
    if system.name == "Linux":
        return _linux(system)
    if system.name == "Darwin":
        return _macos(system)
    # Elsewhere nothing is known of the memory, and so nothing is said to fit.
    return Machine(cores_logical=system.usable_cores, cores_usable=system.usable_cores)


def memory_total_bytes(system: System | None = None) -> int:
    """Memory of the machine, or of the container where that has less; 0 when it is unknown.

    Runs no program, so that it can be asked while the process starts.
    """
    system = system or ThisSystem()
    if system.name == "Linux":
        return _memory(system)[0]
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # systems that do not say
        return 0


def _linux(system: System) -> Machine:
    total, available = _memory(system)
    shares = (_cores_of_group(system, folder) for folder in _groups(system, "cpu"))
    cores = min((share for share in shares if share), default=float(system.usable_cores))
    siblings = _siblings(system)
    logical = len(siblings) or system.usable_cores
    return Machine(
        memory_total_bytes=total,
        memory_available_bytes=available,
        cores_physical=len(set(siblings)) or logical,
        cores_logical=logical,
        cores_usable=min(ceil(cores), system.usable_cores),
        accelerators=[*_nvidia(system), *_amd(system)],
    )


def _memory(system: System) -> tuple[int, int]:
    """All memory and what is free of it, in bytes, within the limits of the control groups."""
    meminfo = _pairs(r"(\w+):\s+(\d+) kB", system.read("/proc/meminfo"))
    total, available = (meminfo.get(key, 0) * 1024 for key in ("MemTotal", "MemAvailable"))
    for folder in _groups(system, "memory"):
        limited = _memory_of_group(system, folder)
        if limited is not None and limited[0] < total:
            total = limited[0]
            available = min(available, max(total - limited[1], 0))
    return total, available


def _siblings(system: System) -> list[str]:
    """For each thread of the processor, the threads that share its core."""
    cpus = "/sys/devices/system/cpu"
    texts = (
        system.read(f"{cpus}/{name}/topology/thread_siblings_list").strip()
        for name in system.names(cpus)
        if re.fullmatch(r"cpu\d+", name)
    )
    return [text for text in texts if text]


def _groups(system: System, controller: str) -> Iterator[str]:
    """Folders of the control groups that this process is in, with all that hold them.

    Every one of them may limit it. In a container the path is often that of the host and not
    there; the root is, then (Linux, ``cgroup-v1`` and ``cgroup-v2``).
    """
    for line in system.read("/proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if controllers and controller not in controllers.split(","):
            continue
        base = f"/sys/fs/cgroup/{controller}" if controllers else "/sys/fs/cgroup"
        group = PurePosixPath(path)
        yield from (base + str(part).rstrip("/") for part in (group, *group.parents))


def _memory_of_group(system: System, folder: str) -> tuple[int, int] | None:
    """What a group may use and what it does use, in bytes; ``None`` without a limit."""
    limit = _whole(system, f"{folder}/memory.max", f"{folder}/memory.limit_in_bytes")
    if not limit:
        return None
    used = _whole(system, f"{folder}/memory.current", f"{folder}/memory.usage_in_bytes")
    stat = _pairs(r"(\w+) (\d+)", system.read(f"{folder}/memory.stat"))
    # The kernel gives up this part of its file cache before anything else. The older kind of
    # group tells it with and without its children's.
    cache = stat.get("total_inactive_file", stat.get("inactive_file", 0))
    return limit, max(used - cache, 0)


def _cores_of_group(system: System, folder: str) -> float | None:
    """Processor time that a group may use, in cores; ``None`` without a limit."""
    quota, _, period = system.read(f"{folder}/cpu.max").strip().partition(" ")
    if not quota:
        quota = system.read(f"{folder}/cpu.cfs_quota_us").strip()
        period = system.read(f"{folder}/cpu.cfs_period_us").strip()
    if quota.isdecimal() and period.isdecimal() and int(quota) and int(period):
        return int(quota) / int(period)
    return None


def _whole(system: System, *paths: str) -> int:
    """The number in the first of these files that holds one, else 0."""
    texts = (system.read(path).strip() for path in paths)
    return next((int(text) for text in texts if text.isdecimal()), 0)


def _nvidia(system: System) -> Iterator[Accelerator]:
    gpus = "/proc/driver/nvidia/gpus"
    texts = "\n".join(system.read(f"{gpus}/{gpu}/information") for gpu in system.names(gpus))
    names = re.findall(r"^Model:\s*(.*\S)", texts, re.MULTILINE)
    # Containers and WSL may have the device without the driver's folder.
    if not names and not {"nvidiactl", "dxg"} & set(system.names("/dev")):
        return
    listing = system.run(
        "nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits"
    )
    told = re.findall(r"^(.+), (\d+), (\d+)$", listing, re.MULTILINE)
    for name, total, free in told:
        yield Accelerator(
            kind="cuda",
            name=name,
            memory_total_bytes=int(total) * _MIB,
            memory_available_bytes=int(free) * _MIB,
        )
    if not told:
        yield from (Accelerator(kind="cuda", name=name) for name in names)


def _amd(system: System) -> Iterator[Accelerator]:
    for card in system.names("/sys/class/drm"):
        device = f"/sys/class/drm/{card}/device"
        total = system.read(f"{device}/mem_info_vram_total").strip()
        if (
            re.fullmatch(r"card\d+", card)
            and system.read(f"{device}/vendor").strip() == _AMD
            and total.isdecimal()
        ):
            used = system.read(f"{device}/mem_info_vram_used").strip()
            free = int(total) - int(used) if used.isdecimal() else int(total)
            yield Accelerator(
                kind="rocm",
                name=system.read(f"{device}/product_name").strip(),
                memory_total_bytes=int(total),
                memory_available_bytes=max(free, 0),
            )


def _macos(system: System) -> Machine:
    keys = ("hw.memsize", "hw.physicalcpu", "hw.logicalcpu")
    told = _pairs(r"([\w.]+): (\d+)", system.run("sysctl", *keys))
    total, physical, logical = (told.get(key, 0) for key in keys)
    listing = system.run("vm_stat")
    pages = _pairs(r"Pages (\w+):\s+(\d+)\.", listing)
    unused = sum(pages.get(kind, 0) for kind in ("free", "inactive", "speculative", "purgeable"))
    page_size = re.search(r"page size of (\d+) bytes", listing)
    # Only Apple's own chips have a graphics processor that models run on, in shared memory.
    is_apple_silicon = system.machine == "arm64"
    chip = system.run("sysctl", "-n", "machdep.cpu.brand_string").strip()
    return Machine(
        memory_total_bytes=total,
        memory_available_bytes=min(unused * int(page_size[1]), total) if page_size else 0,
        cores_physical=physical,
        cores_logical=logical,
        cores_usable=logical or system.usable_cores,
        accelerators=[Accelerator(kind="metal", name=chip)] if is_apple_silicon else [],
    )


def _pairs(line: str, text: str) -> dict[str, int]:
    """Names and numbers of all lines of this form."""
    found = re.findall(f"^{line}$", text, re.MULTILINE)
    return {name: int(number) for name, number in found}
