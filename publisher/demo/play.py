"""The plot: found a fleet, start three devices, push three releases, and say what came of it.

Nothing here is staged: the agents are the ones a device runs, the broker is a broker, the third release fails by its
own mistake on data nobody labelled, and the losses are counted by a process that knows nothing of Fieldcast.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Topics
from publisher.broker import EmbeddedBroker
from publisher.config import Home
from publisher.demo.screen import Screen, print_summary
from publisher.demo.stage import Stage
from publisher.fleet import Fleet, Outcome
from publisher.founding import init
from publisher.pushing import PushResult, connect, push

__all__ = ["run_demo"]

DEVICES = ("device-1", "device-2", "device-3")
RELEASES = ("release_1.py", "release_2.py", "release_3.py")
RATE_HZ = 250.0
WATCH_SECONDS = 8.0
PUSH_SECONDS = 60.0


def run_demo(*, as_json: bool = False, keep: bool = False, broker_url: str | None = None) -> None:
    """Run the demonstration and print its summary; everything it started is ended, also on Ctrl-C."""
    example = _example()
    directory = Path(tempfile.mkdtemp(prefix="fieldcast-demo-"))
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        with _broker(broker_url) as url:
            summary = _play(directory, url, example, quiet=as_json)
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if keep:
            print(f"everything is left in {directory}", file=sys.stderr)
        else:
            shutil.rmtree(directory, ignore_errors=True)
    if as_json:
        print(json.dumps(summary))
    else:
        print_summary(summary)
    if not _as_promised(summary):
        sys.exit(1)


def _example() -> Path:
    """Return the activity example: beside the package when installed, in the source tree otherwise."""
    package = Path(__file__).resolve().parent.parent
    for place in (package / "examples" / "activity", package.parent / "examples" / "activity"):
        if (place / RELEASES[0]).is_file():
            return place
    raise ConfigError("the activity example is not installed with this package: run the demo from a source checkout")


@contextlib.contextmanager
def _broker(url: str | None) -> Iterator[str]:
    if url is not None:
        yield url
        return
    with EmbeddedBroker() as broker:
        yield broker.url


def _play(directory: Path, url: str, example: Path, *, quiet: bool) -> dict[str, Any]:
    passphrase = secrets.token_urlsafe(16)
    author = directory / "author"
    shutil.copytree(example, author)
    home = init(f"demo-{secrets.token_hex(3)}", url, passphrase=passphrase, home=directory / "home")
    with (
        Stage(directory, url, DEVICES) as stage,
        connect(home) as client,
        Fleet(Topics(home.fleet)).listening(client) as fleet,
        Screen(_Table(fleet, stage).rows, quiet=quiet) as screen,
    ):
        screen.step(f"broker {url}, fleet {home.fleet}, {len(DEVICES)} devices starting in {directory}")
        stage.start_meter(author / "basic_motions_test.csv", RATE_HZ)
        stage.start_agents({device: _configure(home, directory, device, url) for device in DEVICES})
        stage.tell_meter("start")
        results = []
        for file in RELEASES:
            screen.step(f"publisher push {file} -c staging")
            results.append(_push(author / file, home, passphrase, screen))
            _watch(WATCH_SECONDS if file != RELEASES[-1] else 2.0)
        screen.step("counting")
        counted = stage.final_count(40.0)
        committed = {
            device: slot.active for device, report in sorted(fleet.reports.items()) for slot in report.slots
        }
    return _summary(results, committed, counted)


def _push(file: Path, home: Home, passphrase: str, screen: Screen) -> PushResult:
    return push(
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


def _watch(seconds: float) -> None:
    """Let the devices run: there is nothing to wait for but time."""
    time.sleep(seconds)


def _configure(home: Home, directory: Path, device: str, url: str) -> Path:
    place = directory / device
    place.mkdir()
    shutil.copy(home.device / "staging.root.json", place)
    config = place / "agent.toml"
    config.write_text(_CONFIG.format(device=device, fleet=home.fleet, url=url))
    return config


_CONFIG = """\
[device]
id = "{device}"
fleet = "{fleet}"
state = "state"

[broker]
url = "{url}"

[channel.staging]
root = "staging.root.json"

[slot.activity]
channel = "staging"

[slot.activity.input]
source = "mqtt"
topic = "sensors/{device}"
columns = {{ ax = "ax", ay = "ay", az = "az", gx = "gx", gy = "gy", gz = "gz" }}
timestamp = {{ path = "t", unit = "ms" }}
sequence = "id"

[slot.activity.output]
sink = "mqtt"
topic = "results/{device}"
"""


class _Table:
    """The rows of the live table, from the devices' reports and the meter's counts."""

    def __init__(self, fleet: Fleet, stage: Stage) -> None:
        self._fleet, self._stage = fleet, stage
        self._before: dict[str, tuple[float, int]] = {}
        self._rates: dict[str, float] = {}

    def rows(self) -> list[dict[str, str]]:
        counted = self._stage.counted
        return [self._row(device, counted) for device in DEVICES]

    def _row(self, device: str, counted: dict[str, Any]) -> dict[str, str]:
        report = self._fleet.reports.get(device)
        slot = report.slots[0] if report is not None and report.slots else None
        running = counted.get("running", {}).get(device, "")
        accuracy = counted.get("accuracy", {}).get(running)
        return {
            "device": device,
            "release": running or (slot.active if slot is not None else "") or "-",
            "state": " ".join((slot.last, slot.state)) if slot is not None and slot.state else "starting",
            "samples/s": f"{self._rate(device, counted.get('answered', {}).get(device, 0)):.0f}",
            "accuracy": "-" if accuracy is None else f"{accuracy:.0%}",
            "last reason": "; ".join(reason.message for reason in slot.reasons) if slot is not None else "",
        }

    def _rate(self, device: str, answered: int) -> float:
        now = time.monotonic()
        at, before = self._before.setdefault(device, (now, answered))
        if now - at >= 2.0:
            self._rates[device] = (answered - before) / (now - at)
            self._before[device] = (now, answered)
        return self._rates.get(device, 0.0)


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


def _as_promised(summary: dict[str, Any]) -> bool:
    second = summary["releases"][1]["release"]
    return (
        summary["committed"] == dict.fromkeys(DEVICES, second)
        and summary["rolled_back"] == len(DEVICES)
        and not summary["samples_lost"]
        and not summary["samples_repeated"]
    )
