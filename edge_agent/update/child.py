"""The verifier's process as its parent sees it: bounded in time and output, and gone afterwards, with all its files.

It may be started before there is a question: it imports what it needs, and waits for its standard input to end.
"""

from __future__ import annotations

import os
import selectors
import signal
import subprocess
import tempfile
import time
from typing import IO

from edge_agent.contract.errors import StoreError
from edge_agent.contract.verification import REPLY_BYTES_MAX

__all__ = ["Child"]

_STDERR_BYTES_KEPT = 2_000
_PIECE_BYTES = 65_536


class Child:
    """A process of `command`, told a directory for its files as one more argument; for one question.

    Raises `StoreError` when it cannot be started.
    """

    def __init__(self, command: list[str]) -> None:
        try:
            self._directory = tempfile.TemporaryDirectory(prefix="fieldcast-trust-", ignore_cleanup_errors=True)
        except OSError as error:
            raise StoreError(f"no temporary directory for the trust verifier: {error}") from error
        try:
            self._process = subprocess.Popen(
                [*command, self._directory.name],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env={**os.environ, "TMPDIR": self._directory.name},
                start_new_session=True,
            )
        except OSError as error:
            self._directory.cleanup()
            raise StoreError(f"the trust verifier cannot be started: {error}") from error

    @property
    def waits(self) -> bool:
        """Whether it still runs."""
        return self._process.poll() is None

    def ask(self, question: bytes, timeout_seconds: float) -> bytes:
        """Return its bounded standard output, and end it. Raises `StoreError` unless it ends well and in time."""
        deadline = time.monotonic() + timeout_seconds
        try:
            output, complaint = self._converse(question, deadline)
            status = self._process.wait(timeout=max(0.1, deadline - time.monotonic()))
        except (TimeoutError, subprocess.TimeoutExpired):
            raise StoreError(
                f"the trust verifier gave no answer in {timeout_seconds:g} s: nothing was accepted"
            ) from None
        finally:
            self.end()
        if status != 0:
            how = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
            last = complaint.decode(errors="replace").strip().splitlines()
            words = last[-1] if last else "it said nothing"
            raise StoreError(f"the trust verifier {how}: {words}; nothing was accepted")
        return output

    def end(self) -> None:
        """Leave no process, zombie, open pipe or file behind."""
        process = self._process
        if process.poll() is None:
            process.kill()
            process.wait()
        for stream in (process.stdin, process.stdout, process.stderr):
            if stream is not None:
                stream.close()
        self._directory.cleanup()

    def _converse(self, question: bytes, deadline: float) -> tuple[bytes, bytes]:
        """Tell it the question and read both outputs to their end; a child that does not read makes nobody wait.

        Of standard output there may be so much and no more; of standard error the end is kept.
        """
        process, left = self._process, memoryview(question)
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        kept: dict[IO[bytes], bytearray] = {process.stdout: bytearray(), process.stderr: bytearray()}
        os.set_blocking(process.stdin.fileno(), False)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdin, selectors.EVENT_WRITE)
            for stream in kept:
                selector.register(stream, selectors.EVENT_READ)
            while selector.get_map():
                seconds = deadline - time.monotonic()
                if seconds <= 0:
                    raise TimeoutError
                for key, _ in selector.select(seconds):
                    if key.fileobj is process.stdin:
                        left = left[_written(key.fd, left) :]
                        if not left:
                            selector.unregister(process.stdin)
                            process.stdin.close()
                    elif not _read(key.fd, kept[key.fileobj], keep_end=key.fileobj is process.stderr):  # type: ignore[index]
                        selector.unregister(key.fileobj)
        return bytes(kept[process.stdout]), bytes(kept[process.stderr])


def _written(descriptor: int, data: memoryview) -> int:
    """Write what the pipe takes; all of it, if nobody will ever read it."""
    try:
        return os.write(descriptor, data[:_PIECE_BYTES])
    except BrokenPipeError:
        return len(data)


def _read(descriptor: int, buffer: bytearray, *, keep_end: bool) -> bool:
    """Read a piece; tell whether there was one. Raises `StoreError` when there is too much of it."""
    piece = os.read(descriptor, _PIECE_BYTES)
    buffer += piece
    if keep_end:
        del buffer[:-_STDERR_BYTES_KEPT]
    elif len(buffer) > REPLY_BYTES_MAX:
        raise StoreError(f"the trust verifier wrote over {REPLY_BYTES_MAX} bytes: nothing was accepted")
    return bool(piece)
