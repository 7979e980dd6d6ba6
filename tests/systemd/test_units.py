"""The units are well-formed and as closed as we say, by systemd's own judgement (no running systemd needed)."""

from __future__ import annotations

import configparser
import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

UNITS = Path(__file__).resolve().parents[2] / "systemd"
AGENT = UNITS / "edge-agent.service"
EXPOSURE_TENTHS_MAX = 15

# What must stand in the unit for the device to heal itself: a later hand must not lose it by accident.
PROMISED = {
    "Type": "notify",
    "NotifyAccess": "main",
    "ExecStart": "/opt/fieldcast/bin/edge-agent run",
    "WatchdogSec": "30",
    "Restart": "always",
    "KillMode": "mixed",
    "OOMPolicy": "continue",
    "StateDirectory": "edge-agent",
    "ConfigurationDirectory": "fieldcast",
}
# fmt: off
HARDENING = [
    "User", "NoNewPrivileges", "CapabilityBoundingSet", "PrivateUsers", "RestrictSUIDSGID", "ProtectSystem",
    "ProtectHome", "PrivateTmp", "PrivateMounts", "PrivateDevices", "RemoveIPC", "ProtectKernelTunables",
    "ProtectKernelModules", "ProtectKernelLogs", "ProtectControlGroups", "ProtectClock", "ProtectHostname",
    "ProtectProc", "RestrictAddressFamilies", "RestrictNamespaces", "RestrictRealtime", "LockPersonality",
    "SystemCallArchitectures", "SystemCallFilter", "UMask",
]
# fmt: on

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def verify(unit: Path) -> subprocess.CompletedProcess[str]:
    return analyze("verify", "--recursive-errors=yes", "--man=no", unit)


def secure(unit: Path) -> subprocess.CompletedProcess[str]:
    return analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS_MAX}", unit)


def findings(unit: Path) -> list[dict[str, Any]]:
    done = analyze("security", "--offline=yes", "--json=short", unit)
    assert done.returncode == 0, done.stderr
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def exposure(found: list[dict[str, Any]]) -> float:
    return sum(float(row["exposure"]) for row in found if row["exposure"])


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """A copy of the unit whose command exists."""
    command = tmp_path / "edge-agent"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    unit = tmp_path / AGENT.name
    unit.write_text(AGENT.read_text().replace("/opt/fieldcast/bin/edge-agent", str(command)))
    return unit


def without(unit: Path, key: str, copy: Path) -> Path:
    lines = unit.read_text().splitlines()
    kept = [line for line in lines if not line.startswith(f"{key}=")]
    assert len(kept) < len(lines), f"{key}= is not in {unit.name}"
    copy.write_text("\n".join(kept) + "\n")
    return copy


def service() -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(AGENT)
    return dict(parser["Service"])


def test_keeps_what_healing_depends_on() -> None:
    assert PROMISED.items() <= service().items()


def test_may_reach_a_broker_and_lock_down_its_workers() -> None:
    text = AGENT.read_text()
    assert "\nIPAddressDeny=" not in text
    assert {"AF_UNIX", "AF_INET", "AF_INET6"} == set(service()["RestrictAddressFamilies"].split())
    for call in ("landlock_create_ruleset", "landlock_add_rule", "landlock_restrict_self", "seccomp"):
        assert f" {call}" in text


@needs_systemd
def test_is_a_valid_unit(installed: Path) -> None:
    done = verify(installed)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_a_wrong_line_is_noticed(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("WatchdogSec=30", "WatchdogSeconds=30"))
    done = verify(installed)
    assert done.returncode != 0
    assert "WatchdogSeconds" in done.stderr


@needs_systemd
def test_is_closed_to_the_promised_exposure(installed: Path) -> None:
    done = secure(installed)
    assert done.returncode == 0, done.stdout


@needs_systemd
@pytest.mark.parametrize("key", ["CapabilityBoundingSet", "RestrictNamespaces"])
def test_the_threshold_notices_an_opened_unit(installed: Path, tmp_path: Path, key: str) -> None:
    assert secure(without(installed, key, tmp_path / "opened.service")).returncode != 0


@needs_systemd
def test_every_hardening_line_closes_something(installed: Path, tmp_path: Path) -> None:
    closed = exposure(findings(installed))
    idle = [
        key for key in HARDENING if exposure(findings(without(installed, key, tmp_path / "opened.service"))) <= closed
    ]
    assert idle == []
