"""The refresh units are well-formed, closed, run daily, and say what the command understands."""

from __future__ import annotations

import configparser
import shlex
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from publisher.cli import main

UNITS = Path(__file__).resolve().parents[2] / "systemd"
SERVICE, TIMER = UNITS / "publisher-refresh.service", UNITS / "publisher-refresh.timer"
EXPOSURE_TENTHS_MAX = 15

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


def section(unit: Path, name: str) -> dict[str, str]:
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read(unit)
    return dict(parser[name])


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["systemd-analyze", *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_command_line_is_one_that_publisher_takes() -> None:
    program, name, *arguments = shlex.split(section(SERVICE, "Service")["ExecStart"])
    assert program.endswith("/publisher")
    command = main.commands[name]
    context = command.make_context(name, [one.replace("%d", "/run/credentials") for one in arguments])
    assert isinstance(context, click.Context)
    assert str(context.params["passphrase_file"]) == "/run/credentials/passphrase"


def test_the_passphrase_is_a_credential_and_a_failure_is_tried_again() -> None:
    service = section(SERVICE, "Service")
    assert service["LoadCredential"].startswith("passphrase:")
    assert (service["Type"], service["Restart"]) == ("oneshot", "on-failure")
    assert service["RestartPreventExitStatus"] == "1 2"  # what only a person can mend
    assert "Environment" not in service


def test_it_runs_far_more_often_than_metadata_expires() -> None:
    timer = section(TIMER, "Timer")
    assert (timer["OnCalendar"], timer["Persistent"]) == ("daily", "true")


@needs_systemd
def test_both_are_valid_units(tmp_path: Path) -> None:
    command = tmp_path / "publisher"
    command.write_text("#!/bin/sh\n")
    command.chmod(0o755)
    for unit in (SERVICE, TIMER):
        (tmp_path / unit.name).write_text(unit.read_text().replace("/opt/fieldcast/bin/publisher", str(command)))
    done = analyze("verify", "--recursive-errors=yes", "--man=no", tmp_path / SERVICE.name, tmp_path / TIMER.name)
    assert (done.returncode, done.stderr) == (0, "")


@needs_systemd
def test_the_service_is_closed(tmp_path: Path) -> None:
    done = analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS_MAX}", SERVICE)
    assert done.returncode == 0, done.stdout
    opened = tmp_path / SERVICE.name
    opened.write_text(SERVICE.read_text().replace("RestrictNamespaces=yes\n", "").replace("PrivateDevices=yes\n", ""))
    assert analyze("security", "--offline=yes", f"--threshold={EXPOSURE_TENTHS_MAX}", opened).returncode != 0
