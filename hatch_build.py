"""Build hook of hatchling: derive the demo models before a wheel is put together.

The repository holds one model file; the quantised, embedding, ranking and MLX forms are derived
from it, byte for byte the same on every machine, so they are built and not committed.
"""

import runpy
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

SOURCE = Path("car_rpc/data/demo/tiny-chat-F16.gguf")
DERIVE = Path("tools/demo_model/derive.py")


class DeriveModels(BuildHookInterface):
    """Runs `derive` of tools/demo_model/derive.py for wheels, editable ones included."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Derive the models next to the one they come from."""
        del version, build_data
        root = Path(self.root)
        derive = runpy.run_path(str(root / DERIVE))["derive"]
        derive(root / SOURCE, (root / SOURCE).parent)
