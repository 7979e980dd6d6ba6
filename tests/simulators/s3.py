"""An S3 server: moto's, in a process of its own, which keeps everything in memory.

Whoever enters gets the environment that AWS's own tools would be given: endpoint, region and credentials.
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import urllib.request
from typing import Self

from tests.simulators.broker import free_port
from tests.simulators.waiting import until

__all__ = ["INSTALLED", "S3Server"]

INSTALLED = importlib.util.find_spec("moto") is not None and importlib.util.find_spec("flask") is not None


class S3Server:
    """A server on the loopback for as long as the block runs."""

    def __init__(self) -> None:
        self.port = free_port()
        self.url = f"http://127.0.0.1:{self.port}"
        self.environment = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_REGION": "eu-central-1",
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
        }
        self._buckets = 0

    def __enter__(self) -> Self:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        until(self._answers, seconds=60, what="the S3 server")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def bucket(self) -> str:
        """Make an empty bucket and return its URL."""
        self._buckets += 1
        name = f"bucket-{self._buckets}"
        place = "<LocationConstraint>eu-central-1</LocationConstraint>"
        self._ask(f"/{name}", "PUT", f"<CreateBucketConfiguration>{place}</CreateBucketConfiguration>".encode())
        return f"s3://{name}/registry"

    def _ask(self, path: str, method: str = "GET", body: bytes | None = None) -> None:
        with urllib.request.urlopen(urllib.request.Request(self.url + path, body, method=method), timeout=30):
            pass

    def _answers(self) -> bool:
        try:
            self._ask("/")
        except OSError:
            return False
        return True
