"""Install the peer into a virtual environment of its own, and run the benchmark in it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
VENV = HERE.parent / ".venv-routing"
LOCK = HERE / "requirements.lock"


def main() -> None:
    """Install what is missing or older than its lock, then run with the same arguments."""
    python, done = VENV / "bin" / "python", VENV / "installed"
    if not done.exists() or done.stat().st_mtime < LOCK.stat().st_mtime:
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(LOCK)], check=True)
        done.touch()
    # LiteLLM fetches a list of prices at its start, which nothing here looks at.
    environ = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    command = [str(python), "-m", "benchmarks.routing", *sys.argv[1:]]
    sys.exit(subprocess.run(command, cwd=ROOT, env=environ, check=False).returncode)


if __name__ == "__main__":
    main()
