"""What this device's workers can run: the profile that admission judges releases by.

It is the view of a worker, which starts isolated (`-I`): packages that only this process sees (`PYTHONPATH`, the
user's own site directory) do not count. onnxruntime is asked in a child process, since this one must stay without it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import site
import subprocess
import sys
from pathlib import Path

import msgspec
from packaging.markers import default_environment
from packaging.tags import sys_tags
from packaging.utils import canonicalize_name

from edge_agent.contract.compatibility import Profile
from edge_agent.runtime import onnx_probe

__all__ = ["collect"]

PROBE_SECONDS = 60.0
_probed: dict[str, _Offer] = {}


class _Offer(msgspec.Struct, frozen=True):
    """What onnxruntime offers: execution providers, and the newest operator set per domain (`""` is ai.onnx)."""

    providers: list[str] = []
    opsets: dict[str, int] = {}


def collect() -> Profile:
    """Return the profile of this interpreter on this machine. The first call takes some 0.3 s with onnxruntime."""
    distributions = _distributions()
    offer = _offer(next((distributions[name] for name in onnx_probe.DISTRIBUTIONS if name in distributions), ""))
    return Profile(
        python=platform.python_version(),
        machine=platform.machine(),
        tags=[str(tag) for tag in sys_tags()],
        distributions=distributions,
        environment={name: str(value) for name, value in default_environment().items()},
        providers=offer.providers,
        opsets=offer.opsets,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
    )


def _distributions() -> dict[str, str]:
    """Canonical names to versions; of several copies the first on the path counts, as it does for imports."""
    found: dict[str, str] = {}
    for distribution in importlib.metadata.distributions(path=_isolated_path()):
        name = distribution.metadata["Name"]
        if name:
            found.setdefault(canonicalize_name(name), distribution.version)
    return dict(sorted(found.items()))


def _isolated_path() -> list[str]:
    unseen = {"", str(Path.cwd()), site.getusersitepackages(), *os.environ.get("PYTHONPATH", "").split(os.pathsep)}
    return [entry for entry in sys.path if entry not in unseen]


def _offer(version: str) -> _Offer:
    """Ask onnxruntime of this version, once. Nothing is offered by one that is missing or does not start."""
    if not version:
        return _Offer()
    if version not in _probed:
        command = [sys.executable, "-I", str(Path(onnx_probe.__file__))]
        try:
            answer = subprocess.run(command, capture_output=True, timeout=PROBE_SECONDS, check=True).stdout
            _probed[version] = msgspec.json.decode(answer, type=_Offer)
        except (OSError, subprocess.SubprocessError, msgspec.DecodeError):
            return _Offer()
    return _probed[version]
