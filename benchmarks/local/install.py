"""Install the peers: a virtual environment and a folder of node modules, both ours.

node-llama-cpp has a package for each platform, and a lock names only those that a registry has;
so its version alone is fixed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from benchmarks.local.contenders import PEERS, VENV

LOCK = Path(__file__).with_name("requirements.lock")


def install() -> None:
    """Install what is missing or older than its lock."""
    python = VENV / "bin" / "python"
    if _is_older(VENV / "installed", LOCK):
        subprocess.run([sys.executable, "-m", "venv", str(VENV)], check=True)
        pip = [str(python), "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
        subprocess.run([*pip, "--require-hashes", "--requirement", str(LOCK)], check=True)
        (VENV / "installed").touch()
    if _is_older(PEERS / "node_modules" / ".package-lock.json", PEERS / "package.json"):
        npm = ["npm", "install", "--silent", "--no-package-lock", "--no-audit", "--no-fund"]
        subprocess.run(npm, cwd=PEERS, check=True)


def draw(results: Path, picture: Path) -> None:
    """Draw what a file of results says, with a library of that environment."""
    script = Path(__file__).with_name("plot.py")
    subprocess.run([str(VENV / "bin" / "python"), str(script), results, picture], check=True)


def _is_older(product: Path, source: Path) -> bool:
    return not product.exists() or product.stat().st_mtime < source.stat().st_mtime
