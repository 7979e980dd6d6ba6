"""One try of a package in a clean process, as a device would run it: the author's source is out of reach.

It starts the device's own rehearsal program and believes its answer. The process sees nothing of Python's environment
variables but the hash seed it is to run under. Nothing is sent anywhere.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from edge_agent.contract.digest import decode_json
from edge_agent.contract.errors import AuthorError, ConfigError, Reason
from edge_agent.sdk.trace import Seen, decode
from publisher.packaging import Package

__all__ = ["Bench", "Trial", "bench"]

SECONDS_MAX = 120.0


class Trial(msgspec.Struct, frozen=True, kw_only=True):
    """How a try went: in `words`, or why not; `outputs` is what each stage made of the self-test, as far as it came."""

    ok: bool
    words: str = ""
    reasons: list[Reason] = []
    traceback: str = ""
    python: str = ""
    outputs: list[Seen] = []


@contextmanager
def bench(package: Package) -> Iterator[Bench]:
    """Lay a package out in a temporary directory, for as long as the block runs."""
    # After Ctrl-C a try may still be writing into it: that must not hide the interruption.
    with tempfile.TemporaryDirectory(prefix="fieldcast-preflight-", ignore_cleanup_errors=True) as name:
        made = Bench(Path(name), package.data)
        for digest, data in package.blobs.items():
            (made.blobs / digest.hex).write_bytes(data)
        yield made


class Bench:
    """Where tries of one package take place, each in a directory of its own; several may run at once."""

    def __init__(self, directory: Path, manifest: bytes) -> None:
        self._directory, self._manifest = directory, manifest
        self.blobs = directory / "blobs"
        self.blobs.mkdir()

    def run(self, seed: int, python: str = "") -> Trial:
        """Rebuild, start and self-test the package in a fresh interpreter under a hash seed.

        `python` is another interpreter than this one; it is then judged as a device's is, before anything starts.
        Raises `ConfigError` if fieldcast does not run there, `AuthorError` if the process ends without an answer.
        """
        program = _program(python) if python else sys.executable
        directory = self._directory / f"{Path(program).name}-{seed}-{os.urandom(4).hex()}"
        directory.mkdir()
        (directory / "blobs").symlink_to(self.blobs)
        (directory / "manifest.json").write_bytes(self._manifest)
        trial = _answer(directory, program, seed, python)
        return msgspec.structs.replace(trial, outputs=_outputs(directory / "outputs"))


def _program(python: str) -> str:
    found = shutil.which(python)
    if found is None:
        raise ConfigError(f"--python {python}: there is no such program")
    return str(Path(found).absolute())  # not resolved: in a virtual environment it is a link that says which


def _answer(directory: Path, program: str, seed: int, python: str) -> Trial:
    # As -I would isolate it, which also ignores the seed.
    command = [program, "-s", "-P", "-m", "edge_agent.rehearsal", str(directory), *(["--admission"] if python else [])]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    environment["PYTHONHASHSEED"] = str(seed)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=SECONDS_MAX,
            cwd=directory,
            env=environment,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        return decode_json(done.stdout, Trial)
    except subprocess.TimeoutExpired:
        raise AuthorError(f"preflight failed: the pipeline did not load within {SECONDS_MAX:.0f} s") from None
    except OSError as error:
        raise ConfigError(f"--python {python}: it cannot be run: {error.strerror}") from None
    except msgspec.DecodeError:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["no output"])[-1]
        if python:
            advice = f"{program} -m pip install 'fieldcast[device]'"
            raise ConfigError(f"--python {python}: fieldcast does not run there ({last}): {advice}") from None
        raise AuthorError(f"preflight failed: the clean process ended with status {done.returncode}: {last}") from None


def _outputs(file: Path) -> list[Seen]:
    try:
        return decode(file.read_bytes())
    except (OSError, ValueError):  # the worker ended before it could say, or its code wrote there
        return []
