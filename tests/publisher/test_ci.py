"""A push as docs/CI.md describes it: a checkout, keys in variables, the record in an object store, nothing else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_agent.transport import envelope
from publisher.uplink import connect
from tests.simulators import author
from tests.simulators.broker import EXECUTABLE, Mosquitto
from tests.simulators.office import PASSPHRASE, Office, retained
from tests.simulators.s3 import INSTALLED, S3Server

pytestmark = [
    pytest.mark.skipif(not Path(EXECUTABLE).exists(), reason="mosquitto is not installed"),
    pytest.mark.skipif(not INSTALLED, reason="needs moto[server]"),
]
ROLES = ("release", "rollout", "snapshot", "timestamp")
PUBLISHER = [sys.executable, "-I", "-c", "from publisher.cli import main; main()"]


@pytest.fixture(scope="module")
def s3() -> Iterator[S3Server]:
    with S3Server() as server:
        yield server


@pytest.fixture(scope="module")
def office(tmp_path_factory: pytest.TempPathFactory, s3: S3Server) -> Iterator[Office]:
    with Mosquitto() as broker, pytest.MonkeyPatch.context() as patch:
        for name, value in s3.environment.items():
            patch.setenv(name, value)
        yield Office.found(tmp_path_factory.mktemp("office") / "home", broker.url, record=s3.bucket())


def checkout(office: Office, path: Path) -> Path:
    """What the repository holds: the author's file, and a home without any key."""
    home = path / ".fieldcast"
    (home / "keys").mkdir(parents=True, mode=0o700)
    (home / "publisher.toml").write_text((office.home.path / "publisher.toml").read_text())
    for name in office.home.channels:
        root = f"{name}.root.json"
        (home / "keys" / root).write_bytes((office.home.keys / root).read_bytes())
    (path / "meter.py").write_text(author.scale(2))
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        subprocess.run(["git", *who, *command], cwd=path, check=True)
    return path


def job(path: Path, environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    clean = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment}
    return subprocess.run(
        [*PUBLISHER, *arguments], cwd=path, env=clean, capture_output=True, text=True, timeout=120, check=False
    )


def secrets_of(office: Office, channel: str) -> dict[str, str]:
    names = {role: f"FIELDCAST_KEY_{channel.upper()}_{role.upper()}" for role in ROLES}
    keys = {name: (office.home.keys / f"{channel}-{role}.pem").read_text() for role, name in names.items()}
    return {**keys, "FIELDCAST_PASSPHRASE": PASSPHRASE, "FIELDCAST_SIGNER": "ci@company"}


def test_a_job_pushes_with_keys_from_its_environment(office: Office, s3: S3Server, tmp_path: Path) -> None:
    path = checkout(office, tmp_path)
    head = subprocess.run(["git", "rev-parse", "HEAD"], cwd=path, capture_output=True, text=True, check=True)
    environment = {**s3.environment, **secrets_of(office, "staging")}
    done = job(path, environment, "push", "meter.py", "-c", "staging", "--tag", "ci.1", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["release"] == "meter@1"
    (info,) = office.channel().releases()
    assert (info.tag, info.signer, info.commit) == ("ci.1", "ci@company", head.stdout.strip())
    with connect(office.home) as client:
        assert envelope.unpack(retained(client, office.topics.trust("staging"))) == office.channel().envelope()
    assert [one.name for one in (path / ".fieldcast").rglob("*.pem")] == []

    refused = job(path, environment, "push", "meter.py", "-c", "production")
    assert refused.returncode == 1
    assert "no key production-" in refused.stderr
    renewed = job(path, environment, "refresh", "-c", "staging", "--json")
    assert renewed.returncode == 0, renewed.stderr
