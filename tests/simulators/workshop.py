"""An author's project directory: its modules are written, imported and forgotten, its scripts run in processes."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import BlobRef

__all__ = ["PACKING", "Shelf", "Workshop", "pythons"]

# Appended to a script that has a `pipeline`: packs it into the directory named on the command line.
PACKING = """
if __name__ == "__main__":
    import json, sys
    from pathlib import Path
    from publisher.packaging import pack

    package = pack(pipeline)
    out = Path(sys.argv[1])
    (out / "blobs").mkdir(parents=True)
    (out / "manifest.json").write_bytes(package.data)
    for digest, blob in package.blobs.items():
        (out / "blobs" / digest.hex).write_bytes(blob)
    stages = [[one.fingerprint, str(one.bundle and one.bundle.digest), one.tag] for one in package.manifest.stages]
    print(json.dumps({"stages": stages, "warnings": package.warnings, "requires": package.manifest.requires}))
"""


class Workshop:
    """Files below `root`, which the test has put on `sys.path`."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def write(self, files: dict[str, str]) -> None:
        """Write sources, dedented."""
        for name, content in files.items():
            path = self.root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(content))

    def load(self, module: str) -> Any:
        """Import a module afresh."""
        self.forget()
        importlib.invalidate_caches()
        return importlib.import_module(module)

    def forget(self) -> None:
        """Drop all modules that came from here."""
        for name, module in list(sys.modules.items()):
            file = getattr(module, "__file__", None)
            if file and Path(file).is_relative_to(self.root):
                del sys.modules[name]

    def run(self, script: str, *arguments: str, python: str = sys.executable, seed: str = "0") -> str:
        """Run a script as its author does and return what it printed; its complaints are the test's failure."""
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONDONTWRITEBYTECODE": "1"}
        done = subprocess.run(
            [python, script, *arguments],
            cwd=self.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


class Shelf:
    """Blobs by reference."""

    def __init__(self) -> None:
        self.blobs: dict[BlobRef, bytes] = {}

    def keep(self, ref: BlobRef, data: bytes) -> None:
        """Take a blob."""
        self.blobs[ref] = data

    def __call__(self, ref: BlobRef) -> bytes:
        return self.blobs[ref]


def pythons() -> list[str]:
    """Return the other interpreters that `$FIELDCAST_PYTHONS` names, which have fieldcast and what workers need."""
    return [path for path in os.environ.get("FIELDCAST_PYTHONS", "").split(os.pathsep) if path]
