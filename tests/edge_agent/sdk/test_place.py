"""Paths are meant from the file they are written in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_agent.sdk.place import resolve


def test_relative_to_this_file():
    assert resolve("test_place.py", "it") == Path(__file__).resolve()
    assert resolve(Path("../sdk/test_place.py"), "it") == Path(__file__).resolve()


def test_absolute_and_missing(tmp_path):
    path = tmp_path / "x"
    path.touch()
    assert resolve(path, "it") == path
    with pytest.raises(FileNotFoundError, match="it: there is no file"):
        resolve(tmp_path, "it")


def test_without_a_file_of_its_own_the_working_directory_counts(tmp_path):
    (tmp_path / "model.bin").touch()
    code = "from edge_agent.sdk.place import resolve; print(resolve('model.bin', 'it'))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.stdout.strip() == str(tmp_path / "model.bin")
