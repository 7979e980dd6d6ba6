"""Real releases, packed from one small author module and laid out on disk as the agent does it."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import Digest
from edge_agent.runtime.crew import Plan
from edge_agent.sdk.filter import Filter
from edge_agent.sdk.pipeline import Health, Input, Output, Pipeline
from edge_agent.sdk.window import Window
from edge_agent.update.layout import lay_out
from publisher.packaging import Package, pack

__all__ = ["Releases"]

_SOURCE = '''
import asyncio
import ctypes
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from pathlib import Path

import numpy as np

from edge_agent.sdk.filter import Filter
from edge_agent.sdk.frame import Frame


class Broken(Exception):
    def __str__(self):
        raise RuntimeError("no text")


class Act(Filter):
    """Double what comes in, or misbehave as told; with a `note`, traces are left on standard error."""

    def __init__(self, how="good", note="", factor=2.0, after=0):
        super().__init__(how=how, note=note, factor=factor, after=after)

    def leave(self, word):
        if self.note:
            os.write(2, f"{self.note}: {word} {os.getpid()}\\n".encode())

    def initialize(self):
        self.seen = 0
        self.kept = []
        if Path(sys.executable).name and self.how in ("hang in load", "raise in load", "exit in load", "fd in load"):
            if os.environ.get("OMP_NUM_THREADS") == "1" and "PYTEST_CURRENT_TEST" not in os.environ:
                getattr(self, self.how.replace(" ", "_"))()

    def hang_in_load(self):
        time.sleep(3600)

    def raise_in_load(self):
        raise RuntimeError("no such sensor")

    def exit_in_load(self):
        os._exit(7)

    def fd_in_load(self):
        os.close(3)

    def cleanup(self):
        self.leave("cleanup")
        if self.how == "raise in cleanup":
            raise RuntimeError("cannot clean up")

    def predict(self, x, *, frame):
        self.seen += 1
        if self.seen <= self.after:
            return x * self.factor
        how = self.how
        if how in ("good", "raise in cleanup"):
            return x * self.factor
        return getattr(self, how.replace(" ", "_"))(x, frame)

    def health(self):
        return "not today" if self.how == "veto" and self.seen else None

    def veto(self, x, frame):
        return x * self.factor

    def raise_always(self, x, frame):
        raise RuntimeError("broken filter")

    def raise_on_seven(self, x, frame):
        if 7 in frame.sequences.tolist():
            raise RuntimeError("seven")
        return x * self.factor

    def exit_on_seven(self, x, frame):
        if 7 in frame.sequences.tolist():
            os._exit(9)
        return x * self.factor

    def unprintable(self, x, frame):
        raise Broken

    def surrogate(self, x, frame):
        raise OSError("cannot read \\udc80")

    def hang(self, x, frame):
        time.sleep(3600)

    def slow(self, x, frame):
        time.sleep(0.15)
        return x * self.factor

    def exit(self, x, frame):
        sys.exit(3)

    def segfault(self, x, frame):
        ctypes.string_at(0)

    def real_time_signal(self, x, frame):
        os.kill(os.getpid(), 40)
        time.sleep(3600)

    def nan(self, x, frame):
        return x * float("nan")

    def too_large(self, x, frame):
        return x * 0 + 1e9

    def wide(self, x, frame):
        return np.hstack([x, x])

    def no_columns(self, x, frame):
        return np.empty((len(x), 0))

    def one_row_more(self, x, frame):
        return np.zeros((len(x) + 1, 1))

    def numbers_ahead(self, x, frame):
        return Frame(x, frame.timestamps, frame.sequences + 1_000_000, None, frame.columns)

    def flood(self, x, frame):
        for _ in range(10):
            print("x" * 10_000)
        return x * self.factor

    def close_descriptor(self, x, frame):
        os.close(3)
        return x

    def half_close(self, x, frame):
        socket.socket(fileno=os.dup(3)).shutdown(socket.SHUT_RD)
        time.sleep(3600)

    def garbage(self, x, frame):
        os.write(3, b"garbage of some length that is no header at all")
        return x

    def garbage_flood(self, x, frame):
        while True:
            os.write(3, b"garbage")

    def stop_itself(self, x, frame):
        os.kill(os.getpid(), signal.SIGSTOP)
        return x

    def start_child(self, x, frame):
        subprocess.Popen(["sleep", "600"])
        return x * self.factor

    def linger_thread(self, x, frame):
        threading.Thread(target=time.sleep, args=(600,)).start()
        return x * self.factor

    def cancelled(self, x, frame):
        raise asyncio.CancelledError

    def leak(self, x, frame):
        self.kept.append(bytearray(os.urandom(1024)) * 2048)
        return x * self.factor

    def warm_up(self, x, frame):
        """Fill a cache of 60 MB once, in steps, and keep it."""
        if len(self.kept) < 30:
            self.kept.append(bytearray(os.urandom(1024)) * 2048)
        return x * self.factor

    def many_rows(self, x, frame):
        return Frame(
            np.zeros((len(x) * 500, 1)),
            np.repeat(frame.timestamps, 500),
            np.repeat(frame.sequences, 500),
            None,
            frame.columns,
        )

    def print_much(self, x, frame):
        print("x" * 200_000)
        return x * self.factor

    def chat(self, x, frame):
        if self.seen == 1:
            print("plain\\nslot=other release=forged\\r \\x1b[31m")
            log = logging.getLogger("acting")
            log.debug("too fine")
            log.info("told %d", 1)
            log.warning("two\\nlines")
            try:
                1 / 0
            except ZeroDivisionError:
                log.exception("caught")
            warnings.warn("old")
            sys.stdout.buffer.write(b"\\xff\\xfe bytes\\n")
            sys.stderr.write("no end")
            sys.stderr.flush()
            os.write(2, b" of it\\n<3>native\\n")
        return x * self.factor

    def shout(self, x, frame):
        if self.seen == 1:
            os.write(1, b"y" * 10_000_000 + b"\\n")
            for _ in range(20):
                os.write(1, b"line\\n" * 10_000)
        return x * self.factor

    def no_space(self, x, frame):
        raise OSError(28, "No space left on device")

    def fill_file(self, x, frame):
        with Path(self.note).open("ab") as file:
            file.write(bytes(8 << 20))
        return x * self.factor

    def read_file(self, x, frame):
        return x * 0 + len(Path(self.note).read_bytes())

    def list_directory(self, x, frame):
        return x * 0 + len(os.listdir(self.note))

    def fork(self, x, frame):
        for _ in range(20):
            if os.fork() == 0:
                time.sleep(600)
        raise RuntimeError("forked")

    def kill_parent(self, x, frame):
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(3600)

    def shift(self, x, frame):
        return x * self.factor + 0.5

    def burn(self, x, frame):
        end = time.process_time() + 0.02
        while time.process_time() < end:
            pass
        return x * self.factor

    def words(self, x, frame):
        return [[float(value) * 2] for value in x[:, 0]]

    def collect(self, x, frame):
        """Nothing for nine samples, then all of them at once."""
        self.kept += list(zip(frame.sequences.tolist(), frame.timestamps.tolist(), x[:, 0].tolist()))
        if len(self.kept) < 10:
            return frame.take(slice(0, 0))
        kept, self.kept = self.kept, []
        numbers, times, values = zip(*kept)
        return Frame(np.array(values)[:, None] * 2, np.array(times), np.array(numbers), None, frame.columns)


class Sum(Filter):
    def predict(self, x):
        return x.sum(axis=1)


class Total(Filter):
    """One sum a row, whatever is in it but NaN."""

    def predict(self, x):
        if np.isnan(x).any():
            raise ValueError("NaN")
        return x.sum(axis=1, keepdims=True)


class Doubled(Filter):
    def predict(self, x):
        return x * 2


class Stuck(Filter):
    """Never comes back from number seven; the others it doubles."""

    def predict(self, x):
        if 7 in x:
            time.sleep(3600)
        return x * 2


class AsyncStuck(Filter):
    async def predict(self, x):
        if 7 in x:
            await asyncio.Event().wait()
        return x * 2


class Swallowing(Filter):
    """Does not even let itself be cancelled."""

    async def predict(self, x):
        while 7 in x:
            try:
                await asyncio.sleep(0.01)
            except asyncio.CancelledError:
                pass
        return x * 2


class Looped(Filter):
    """Adds the number of event loops that it has run in."""

    async def initialize(self):
        self.loops = [asyncio.get_running_loop()]

    async def predict(self, x):
        await asyncio.sleep(0)
        if asyncio.get_running_loop() not in self.loops:
            self.loops.append(asyncio.get_running_loop())
        return x + len(self.loops)
'''


class Releases:
    """Makes releases below `directory`; the same wish gives the same files, laid out once."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        path = directory / "author" / "acting.py"
        path.parent.mkdir(parents=True)
        path.write_text(_SOURCE)
        spec = importlib.util.spec_from_file_location("acting", path)
        assert spec is not None
        assert spec.loader is not None
        self.module: Any = importlib.util.module_from_spec(spec)
        sys.modules["acting"] = self.module
        spec.loader.exec_module(self.module)

    def pack(self, stages: list[Filter], *, columns: int = 1, self_test: Any = None, **health: Any) -> Package:
        """Pack a pipeline named `act`: columns `x`, `x1`, … in, `y` out."""
        policy = {"probation_seconds": 0.05, "probation_frames": 10, "shadow_frames": 5, "heartbeat_seconds": 20.0}
        names = ["x", *(f"x{number}" for number in range(1, columns))]
        pipeline = Pipeline(
            "act",
            stages,
            input=Input(names, rate_hz=100),
            output=Output(["y"], range=(-1e6, 1e6)),
            tunable=["factor"] if isinstance(stages[0], self.module.Act) else [],
            self_test=self_test,
            health=Health(**{**policy, **health}),
        )
        return pack(pipeline, root=self._directory / "author")

    def lay_out(self, package: Package) -> Path:
        """Write the blobs and lay the release out; return its root."""
        blobs = self._directory / "blobs"
        blobs.mkdir(exist_ok=True)
        for digest, data in package.blobs.items():
            (blobs / digest.hex).write_bytes(data)
        return lay_out(self._directory / "releases", package.data, lambda ref: blobs / ref.digest.hex)

    def act(self, key: int, how: str = "good", *, tunables: dict[str, Any] | None = None, **options: Any) -> Plan:
        """Return the plan of a release that acts as told; `options` are `Act`'s parameters or the health policy's."""
        parameters = {name: options.pop(name) for name in ("note", "factor", "after") if name in options}
        package = self.pack([self.module.Act(how=how, **parameters)], **options)
        return self._plan(key, package, tunables or {})

    def stages(self, key: int, stages: list[Filter], **options: Any) -> Plan:
        """Return the plan of a release of some stages; `options` are the health policy's."""
        return self._plan(key, self.pack(stages, **options), {})

    def windows(self, key: int, size: int = 8, hop: int = 4, **options: Any) -> Plan:
        """Return the plan of a release that sums windows."""
        return self._plan(key, self.pack([Window(size, hop), self.module.Sum()], **options), {})

    def _plan(self, key: int, package: Package, tunables: dict[str, Any]) -> Plan:
        manifest = package.manifest
        return Plan(
            key=key,
            release=f"act@{key}",
            root=self.lay_out(package),
            columns=manifest.input.columns,
            output=manifest.output,
            health=manifest.health,
            history=manifest.history,
            tunables=tunables,
        )

    @staticmethod
    def digest(package: Package) -> Digest:
        """Return the digest that names the release."""
        return Digest.of(package.data)
