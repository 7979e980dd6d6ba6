"""The plot: found a fleet, start three devices, push three releases, and say what came of it.

Nothing here is staged: the agents are the ones a device runs, the broker is a broker, the third release fails by its
own mistake on data nobody labelled, and the losses are counted by a process that knows nothing of Fieldcast.
"""

from __future__ import annotations

import contextlib
import json
import queue
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Topics
from edge_agent.transport.address import Address
from edge_agent.transport.client import Client
from publisher.broker import EmbeddedBroker
from publisher.config import Home
from publisher.demo.screen import DeviceTable, Screen, print_summary
from publisher.demo.stage import Stage
from publisher.devices.fleet import Fleet, Outcome
from publisher.founding import init
from publisher.pushing import PushResult, push
from publisher.uplink import connect

__all__ = ["run_demo"]

DEVICES = ("device-1", "device-2", "device-3")
RELEASES = ("release_1.py", "release_2.py", "release_3.py")
RATE_HZ = 250.0
WATCH_SECONDS = 8.0
LAST_LOOK_SECONDS = 2.0
PUSH_SECONDS = 60.0
COUNT_SECONDS = 40.0
QUIET_SECONDS = 1.0
CLEARED_MAX = 10_000
STOPS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(*, as_json: bool = False, keep: bool = False, broker_url: str | None = None) -> None:
    """Run the demonstration and print its summary; everything it started is ended, also on Ctrl-C.

    Exits with 1 when something did not end as promised. Raises `ConfigError` and `TransportError`.
    """
    example = _example()
    if broker_url is not None and Address.parse(broker_url).tls:
        raise ConfigError(f"the demonstration feeds its devices without TLS: use mqtt:// instead of {broker_url}")
    with _stoppable(), _directory(keep=keep) as directory, _broker(broker_url) as url:
        summary = _play(directory, url, example, quiet=as_json, clear=broker_url is not None)
    if as_json:
        print(json.dumps(summary), flush=True)
    else:
        print_summary(summary)
    if broken := _broken_promises(summary):
        print(f"publisher: not as promised: {'; '.join(broken)}", file=sys.stderr)
        sys.exit(1)


def _example() -> Path:
    """Return the activity example: beside the package when installed, in the source tree otherwise."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "examples" / "activity", package.parent / "examples" / "activity"):
        if (place / RELEASES[0]).is_file():
            return place
    raise ConfigError("the activity example is not installed with this package: run the demo from a source checkout")


# --- what the play needs around it ----------------------------------------------------------------------------------


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    """Let Ctrl-C, SIGTERM and SIGHUP end the block, once: a second one must not disturb the clearing up."""

    def stop(number: int, frame: object) -> NoReturn:
        for one in STOPS:
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt if number == signal.SIGINT else SystemExit(128 + number)

    before = {number: signal.signal(number, stop) for number in STOPS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _directory(*, keep: bool) -> Iterator[Path]:
    """Give a directory for everything, temporary files too: one that is being made when a signal comes has no owner."""
    directory = Path(tempfile.mkdtemp(prefix="fieldcast-demo-"))
    before, tempfile.tempdir = tempfile.tempdir, str(directory)
    try:
        yield directory
    finally:
        tempfile.tempdir = before
        if keep:
            print(f"everything is left in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def _broker(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with EmbeddedBroker() as broker:
        yield broker.url


@contextlib.contextmanager
def _cleared(client: Client, fleet: str, *, clear: bool) -> Iterator[None]:
    """Leave nothing of the fleet behind on somebody's broker."""
    try:
        yield
    finally:
        if clear:
            _clear(client, fleet)


def _clear(client: Client, fleet: str) -> None:
    found: queue.SimpleQueue[str] = queue.SimpleQueue()
    everything = Topics(fleet).everything()
    head = everything.removesuffix("#")

    def hear(topic: str, payload: bytes, retain: bool) -> None:
        if payload and topic.startswith(head):
            found.put(topic)

    with client.listening(hear), contextlib.suppress(queue.Empty):
        client.subscribe([everything])
        for _ in range(CLEARED_MAX):
            client.publish(found.get(timeout=QUIET_SECONDS), b"", retain=True)
    client.unsubscribe([everything])


# --- the play -------------------------------------------------------------------------------------------------------


def _play(directory: Path, url: str, example: Path, *, quiet: bool, clear: bool) -> dict[str, Any]:
    passphrase = secrets.token_urlsafe(16)
    author = directory / "author"
    shutil.copytree(example, author)
    home = init(f"demo-{secrets.token_hex(3)}", url, passphrase=passphrase, home=directory / "home")
    with (
        connect(home) as client,
        _cleared(client, home.fleet, clear=clear),
        Fleet(Topics(home.fleet)).listening(client) as fleet,
        Stage(directory, home, DEVICES) as stage,
        Screen(DeviceTable(DEVICES, fleet, lambda: stage.counted).rows, quiet=quiet) as screen,
    ):
        screen.step(f"broker {url}, fleet {home.fleet}: {len(DEVICES)} devices start in {directory}")
        stage.start_meter(author / "basic_motions_test.csv", RATE_HZ)
        stage.start_agents()
        stage.tell_meter("start")
        results = [_push(author / file, home, passphrase, screen) for file in RELEASES]
        screen.step("counting")
        counted = stage.final_count(COUNT_SECONDS)
        return _summary(results, _active(fleet), counted)


def _push(file: Path, home: Home, passphrase: str, screen: Screen) -> PushResult:
    """Push one release, and let the devices run it for a while: there is nothing to wait for but time."""
    screen.step(f"publisher push {file.name} -c staging --wait")
    result = push(
        str(file),
        channel="staging",
        message=f"demonstration, {file.name}",
        wait=True,
        devices=len(DEVICES),
        timeout_seconds=PUSH_SECONDS,
        home=home.path,
        passphrase=passphrase,
        progress=screen.detail,
    )
    screen.detail(f"{result.release} {result.ending.value.replace('_', ' ')} after {result.seconds:.1f} s")
    time.sleep(LAST_LOOK_SECONDS if file.name == RELEASES[-1] else WATCH_SECONDS)
    return result


def _active(fleet: Fleet) -> dict[str, str]:
    return {one.device: slot.active for one in fleet.devices() if one.report for slot in one.report.slots}


# --- what came of it ------------------------------------------------------------------------------------------------


def _summary(results: list[PushResult], committed: dict[str, str], counted: dict[str, Any]) -> dict[str, Any]:
    return {
        "devices": len(DEVICES),
        "committed": committed,
        "rolled_back": sum(one.outcome is Outcome.ROLLED_BACK for one in results[-1].devices),
        "samples": counted["sent"],
        "samples_lost": counted["lost"],
        "samples_repeated": counted["repeated"],
        "accuracy": counted["accuracy"],
        "releases": [
            {
                "release": result.release,
                "outcome": result.ending.value,
                "sent_bytes": result.sent_bytes,
                "seconds": result.seconds,
                "reason": next((str(reason) for one in result.devices for reason in one.reasons), ""),
            }
            for result in results
        ],
    }


def _broken_promises(summary: dict[str, Any]) -> list[str]:
    """Return what did not end as it should, in words; nothing when all is well."""
    second = summary["releases"][1]["release"]
    promises = {
        f"every device runs {second}": summary["committed"] == dict.fromkeys(DEVICES, second),
        f"{len(DEVICES)} devices roll the third release back": summary["rolled_back"] == len(DEVICES),
        "no sample is lost": not summary["samples_lost"],
        "no sample is repeated": not summary["samples_repeated"],
    }
    return [promise for promise, kept in promises.items() if not kept]
