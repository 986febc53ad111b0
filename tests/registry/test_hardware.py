from pathlib import Path

import pytest

from car_rpc.registry.hardware import ThisSystem, detect, memory_total_bytes
from car_rpc.wire.search import Accelerator, Machine

GIB = 1024**3
MEMINFO = "MemTotal:       16777216 kB\nMemFree:  1 kB\nMemAvailable:    8388608 kB\n"
TOPOLOGY = "/sys/devices/system/cpu/cpu{}/topology/thread_siblings_list"

VM_STAT = """Mach Virtual Memory Statistics: (page size of 16384 bytes)
Pages free:                              100000.
Pages active:                            500000.
Pages inactive:                          200000.
Pages speculative:                        20000.
Pages wired down:                        100000.
Pages purgeable:                          10000.
"Translation faults":                 123456789.
"""


class Fixture:
    """A machine that is nothing but text."""

    def __init__(
        self,
        files: dict[str, str] | None = None,
        programs: dict[tuple[str, ...], str] | None = None,
        name: str = "Linux",
        machine: str = "x86_64",
        usable_cores: int = 8,
    ) -> None:
        self.name = name
        self.machine = machine
        self.usable_cores = usable_cores
        self.files = files or {}
        self.programs = programs or {}
        self.ran: list[str] = []

    def read(self, path: str) -> str:
        return self.files.get(path, "")

    def names(self, path: str) -> list[str]:
        under = (
            name.removeprefix(path + "/") for name in self.files if name.startswith(path + "/")
        )
        return sorted({name.partition("/")[0] for name in under})

    def run(self, *command: str) -> str:
        self.ran.append(command[0])
        return self.programs.get(command, "")


def linux(groups: dict[str, str] | None = None, usable_cores: int = 8) -> Machine:
    """A machine of four cores with two threads each, and these files of control groups."""
    topology = {TOPOLOGY.format(cpu): f"{cpu % 4},{cpu % 4 + 4}\n" for cpu in range(8)}
    files = {"/proc/meminfo": MEMINFO, **topology, **(groups or {})}
    return detect(Fixture(files, usable_cores=usable_cores))


def group(path: str, **files: str) -> dict[str, str]:
    return {f"/sys/fs/cgroup{path}/{name.replace('__', '.')}": text for name, text in files.items()}


def test_a_whole_machine_may_be_used() -> None:
    assert linux() == Machine(
        memory_total_bytes=16 * GIB,
        memory_available_bytes=8 * GIB,
        cores_physical=4,
        cores_logical=8,
        cores_usable=8,
    )


def test_affinity_limits_the_cores() -> None:
    assert linux(usable_cores=3).cores_usable == 3


def test_every_group_that_holds_the_process_limits_it() -> None:
    limited = linux(
        {
            "/proc/self/cgroup": "0::/user.slice/app.scope\n",
            **group("/user.slice/app.scope", memory__max="max\n", cpu__max="max 100000\n"),
            **group(
                "/user.slice",
                memory__max=f"{4 * GIB}\n",
                memory__current=f"{3 * GIB}\n",
                memory__stat=f"anon 1\ninactive_file {GIB}\n",
                cpu__max="150000 100000\n",
            ),
        }
    )
    assert limited.memory_total_bytes == 4 * GIB
    assert limited.memory_available_bytes == 2 * GIB
    assert limited.cores_usable == 2, "one and a half"
    assert limited.cores_logical == 8


def test_the_older_kind_of_groups_limits_too() -> None:
    unlimited = "9223372036854771712\n"
    limited = linux(
        {
            "/proc/self/cgroup": "5:memory:/job\n4:cpu,cpuacct:/job\n2:cpuset:/\n0::/\n",
            **group(
                "/memory/job",
                memory__limit_in_bytes=f"{2 * GIB}\n",
                memory__usage_in_bytes=f"{GIB}\n",
                memory__stat=f"inactive_file 7\ntotal_inactive_file {GIB // 2}\n",
            ),
            **group("/memory", memory__limit_in_bytes=unlimited),
            **group("/cpu/job", cpu__cfs_quota_us="-1\n", cpu__cfs_period_us="100000\n"),
            **group("/cpu", cpu__cfs_quota_us="50000\n", cpu__cfs_period_us="100000\n"),
        }
    )
    assert limited.memory_total_bytes == 2 * GIB
    assert limited.memory_available_bytes == GIB + GIB // 2
    assert limited.cores_usable == 1


def test_in_a_container_the_root_of_the_groups_counts() -> None:
    limited = linux(
        {
            "/proc/self/cgroup": "0::/docker/0123\n",
            **group("", memory__max=f"{GIB}\n", memory__current="0\n"),
        }
    )
    assert limited.memory_total_bytes == limited.memory_available_bytes == GIB


def test_its_memory_alone_is_told_without_running_a_program() -> None:
    limit = {"/proc/self/cgroup": "0::/\n", **group("", memory__max=f"{4 * GIB}\n")}
    system = Fixture({"/proc/meminfo": MEMINFO, **limit})
    assert memory_total_bytes(system) == 4 * GIB
    assert memory_total_bytes(Fixture(name="Darwin")) > 0
    assert system.ran == []


def test_a_machine_of_which_nothing_can_be_read_is_unknown() -> None:
    assert detect(Fixture(usable_cores=2)) == Machine(
        cores_physical=2, cores_logical=2, cores_usable=2
    )
    assert detect(Fixture(name="Windows", usable_cores=4)).memory_total_bytes == 0


@pytest.mark.parametrize("text", ["", "garbage", "MemTotal: many kB\n", "MemTotal: -1 kB\n"])
def test_garbage_is_as_good_as_nothing(text: str) -> None:
    groups = {"/proc/self/cgroup": text or "1:memory\n:::\n0::relative\n"}
    machine = detect(
        Fixture({"/proc/meminfo": text, **groups, **group("", memory__max=text, cpu__max=text)})
    )
    assert machine.memory_total_bytes == 0
    assert machine.cores_usable == 8


NVIDIA = {
    "/proc/driver/nvidia/gpus/0000:01:00.0/information": "Model: \t\t NVIDIA RTX A2000\nIRQ: 7\n"
}
NVIDIA_SMI = (
    "nvidia-smi", "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader,nounits",
)  # fmt: skip


def test_an_nvidia_card_tells_its_memory_by_its_own_program() -> None:
    told = "NVIDIA H100 80GB HBM3, 81559, 81000\nNVIDIA H100 80GB HBM3, 81559, 1\n"
    one, two = detect(Fixture(NVIDIA, {NVIDIA_SMI: told})).accelerators
    assert one == Accelerator(
        kind="cuda",
        name="NVIDIA H100 80GB HBM3",
        memory_total_bytes=81559 * 1024**2,
        memory_available_bytes=81000 * 1024**2,
    )
    assert two.memory_available_bytes == 1024**2


def test_without_that_program_the_name_is_all_there_is() -> None:
    assert detect(Fixture(NVIDIA)).accelerators == [
        Accelerator(kind="cuda", name="NVIDIA RTX A2000")
    ]


def test_a_container_has_the_device_alone() -> None:
    system = Fixture({"/dev/nvidiactl": ""}, {NVIDIA_SMI: "A card, 1024, 512\n"})
    assert [each.name for each in detect(system).accelerators] == ["A card"]


def test_no_program_is_run_where_there_is_no_driver() -> None:
    system = Fixture({"/dev/null": ""})
    detect(system)
    assert system.ran == []


def test_a_card_of_amd_tells_its_memory_by_files() -> None:
    drm = "/sys/class/drm"
    machine = detect(
        Fixture(
            {
                f"{drm}/card0/device/vendor": "0x8086\n",
                f"{drm}/card0/device/mem_info_vram_total": "1\n",
                f"{drm}/card1/device/vendor": "0x1002\n",
                f"{drm}/card1/device/mem_info_vram_total": f"{16 * GIB}\n",
                f"{drm}/card1/device/mem_info_vram_used": f"{GIB}\n",
                f"{drm}/card1/device/product_name": "Radeon RX\n",
                f"{drm}/card1-DP-1/device/vendor": "0x1002\n",
            }
        )
    )
    assert machine.accelerators == [
        Accelerator(
            kind="rocm",
            name="Radeon RX",
            memory_total_bytes=16 * GIB,
            memory_available_bytes=15 * GIB,
        )
    ]


@pytest.mark.parametrize(("machine", "kinds"), [("arm64", ["metal"]), ("x86_64", [])])
def test_a_mac_tells_by_its_own_programs(machine: str, kinds: list[str]) -> None:
    keys = ("hw.memsize", "hw.physicalcpu", "hw.logicalcpu")
    system = Fixture(
        name="Darwin",
        machine=machine,
        programs={
            ("sysctl", *keys): f"hw.memsize: {16 * GIB}\nhw.physicalcpu: 8\nhw.logicalcpu: 8\n",
            ("sysctl", "-n", "machdep.cpu.brand_string"): "Apple M2\n",
            ("vm_stat",): VM_STAT,
        },
    )
    found = detect(system)
    assert found.memory_total_bytes == 16 * GIB
    assert found.memory_available_bytes == 330_000 * 16384
    assert (found.cores_physical, found.cores_usable) == (8, 8)
    assert [(each.kind, each.name) for each in found.accelerators] == [
        (kind, "Apple M2") for kind in kinds
    ]


def test_the_files_are_read_below_the_root_that_is_given(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc" / "meminfo").write_text(MEMINFO)
    system = ThisSystem(tmp_path)
    assert system.read("/proc/meminfo") == MEMINFO
    assert system.names("/") == ["proc"]
    assert (system.read("/missing"), system.names("/missing")) == ("", [])
    assert system.run("no-such-program-anywhere") == ""
    assert system.run("false") == ""
    assert system.run("echo", "a") == "a\n"


def test_this_machine_is_known() -> None:
    machine = detect()
    assert machine.memory_total_bytes >= machine.memory_available_bytes > 0
    assert machine.cores_usable >= 1
