"""How workers are kept: the device's limits are ceilings, a release may ask for less, and gaps may refuse it."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.config.confinement import confinement
from edge_agent.config.sections import Config
from edge_agent.contract.errors import Blame, ConfigError, ReasonCode
from edge_agent.contract.manifest import InputSpec, Manifest, OutputSpec, ResourceLimits, Stage, encode_manifest
from edge_agent.runtime.limits import MIB, lowest, unmet
from edge_agent.runtime.supervisor import Supervisor
from edge_agent.wiring import RuntimePort

_CONFIG = """
[device]
id = "d1"
fleet = "plant"
[channel.staging]
root = "1.root.json"
[slot.meter]
channel = "staging"
input = {{source = "csv", path = "in.csv", timestamp = "t"}}
output = {{sink = "sqlite", path = "out.db"}}
{}
"""


def config(directory: Path, more: str = "") -> Config:
    path = directory / "agent.toml"
    path.write_text(_CONFIG.format(more))
    return load(path, check_files=False)


@pytest.mark.parametrize(
    ("more", "wanted", "memory_mb"),
    [
        ("", {}, None),
        ("", {"memory_mb": 100}, 100),
        ("[limits]\nmemory_mb = 200", {}, 200),
        ("[limits]\nmemory_mb = 200", {"memory_mb": 100}, 100),
        ("[limits]\nmemory_mb = 200", {"memory_mb": 4096}, 200),
        ("[limits]\nmemory_mb = 200\n[slot.meter.limits]\nmemory_mb = 300", {}, 300),
        ("[slot.meter.limits]\nmemory_mb = 300", {"memory_mb": 301}, 300),
    ],
)
def test_the_lowest_limit_counts_and_a_slot_s_own_replaces_the_device_s(
    tmp_path: Path, more: str, wanted: dict[str, int], memory_mb: int | None
) -> None:
    found = confinement(config(tmp_path, more), "meter", ResourceLimits(**wanted)).limits
    assert found.memory_bytes == (memory_mb * MIB if memory_mb else None)
    assert (found.open_files, found.file_bytes, found.processes) == (256, 64 * MIB, None)


def test_what_the_device_requires_and_who_starts_workers_is_passed_on(tmp_path: Path) -> None:
    more = '[sandbox]\nrequire = ["network"]\nlauncher = "/run/fieldcast/worker.sock"\n[limits]\ntasks = 40'
    found = confinement(config(tmp_path, more), "meter", ResourceLimits(tasks=20))
    assert found.require == ("network",)
    assert found.launcher == "/run/fieldcast/worker.sock"
    assert found.limits.processes == 20


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('[sandbox]\nrequire = ["netwrok"]', r"sandbox.require: 'netwrok' is no layer.*network"),
        ("[limits]\nmemory_mb = 8", "limits.memory_mb: 8 must be 32 or more"),
        ("[limits]\nfile_mb = 65", "limits.file_mb: 65 must be 1 to 64"),
        ("[slot.meter.limits]\ntasks = -1", "slot.meter.limits.tasks: -1 must be 4 or more"),
    ],
)
def test_what_cannot_be_meant_is_a_fault_with_its_key(tmp_path: Path, more: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(tmp_path, more)


def test_a_required_layer_that_is_not_applied_refuses_without_blaming_the_release() -> None:
    assert unmet(["network"], {"network": "applied: opens no socket"}) is None
    assert unmet([], {}) is None
    reason = unmet(["network", "cpu"], {"network": "refused: no", "memory": "applied: 1"})
    assert reason is not None
    assert (reason.code, reason.blame) == (ReasonCode.SANDBOX, Blame.ENVIRONMENT)
    assert "network is refused: no; cpu is not known" in reason.message


def test_no_limit_is_no_limit() -> None:
    assert lowest(None, 0, 5, 3) == 3
    assert lowest(None, 0) is None


@pytest.mark.parametrize(("more", "modules"), [("", None), ("spare = true", ("numpy", "onnxruntime"))])
def test_a_slot_keeps_a_spare_worker_only_where_it_is_told_to(
    tmp_path: Path, more: str, modules: tuple[str, ...] | None
) -> None:
    path, supervisor = tmp_path / "agent.toml", Supervisor(())
    path.write_text(_CONFIG.format("").replace('channel = "staging"', f'channel = "staging"\n{more}'))
    manifest = Manifest(
        format=1,
        pipeline="meter",
        stages=[Stage(name="model", target="edge_agent.sdk.identity:Identity", fingerprint="f")],
        input=InputSpec(columns=["x"]),
        output=OutputSpec(columns=["y"]),
        requires=["numpy", "onnxruntime"],
    )
    (tmp_path / "manifest.json").write_bytes(encode_manifest(manifest))
    port = RuntimePort(supervisor, load(path, check_files=False))
    assert port._plan("meter", 1, tmp_path, "meter@1").spare == modules
    supervisor.stop()
