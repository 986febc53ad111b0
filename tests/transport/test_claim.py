"""The wire is claimed in a process of its own, started with any of its streams closed."""

import itertools
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [
    pytest.mark.process,
    pytest.mark.skipif(sys.platform == "win32", reason="descriptors are closed by a shell"),
]

ROOT = Path(__file__).parents[2]

SCRIPT = """
import os, sys
from car_rpc.transport.claim import claim_stdio
claimed = claim_stdio()
assert min(claimed) > 2, claimed
assert not os.get_inheritable(claimed.reader_fd) and not os.get_inheritable(claimed.writer_fd)
os.write(1, b"stray native print\\n")
print("stray print", flush=True)
os.system("echo stray child")
assert os.read(0, 10) == b"", "nothing else reads the wire"
try:
    os.write(claimed.writer_fd, b"got:" + os.read(claimed.reader_fd, 100))
except OSError:
    pass
os.fstat(0), os.fstat(1), os.fstat(2)
os.open(os.devnull, os.O_RDONLY)
with open(sys.argv[1], "w") as report:
    report.write("ok")
"""

CLOSED = [
    combination
    for count in range(4)
    for combination in itertools.combinations(("0<&-", "1>&-", "2>&-"), count)
]


@pytest.mark.parametrize("closed", CLOSED, ids=lambda c: " ".join(c) or "all open")
def test_stray_output_never_reaches_the_wire(closed: tuple[str, ...], tmp_path: Path) -> None:
    report = tmp_path / "report"
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    shell = f'exec "$0" "$@" {" ".join(closed)}'
    done = subprocess.run(
        ["/bin/sh", "-c", shell, sys.executable, str(script), str(report)],
        input=b"the wire",
        capture_output=True,
        check=False,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"},
        timeout=30,
    )
    assert report.exists(), done.stderr.decode()
    assert report.read_text() == "ok"
    expected = b"got:" if "0<&-" in closed else b"got:the wire"
    assert done.stdout == (b"" if "1>&-" in closed else expected)
    if "2>&-" not in closed:
        lines = [b"stray native print", b"stray child"]
        assert all(line in done.stderr for line in lines)
