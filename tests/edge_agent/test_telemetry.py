"""What the agent tells systemd and the fleet, from a real store and to a real socket."""

from __future__ import annotations

import logging
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import Reason, ReasonCode
from edge_agent.contract.messages import SlotReport, decode_report, encode_report
from edge_agent.telemetry import Rates, Systemd, channel_status, profile_summary, report, slot_report
from edge_agent.update.deployment import Deployment, State
from edge_agent.update.store import Refusal, Store, Trust

ROOT = Path(__file__).parents[2]
REASON = Reason(code=ReasonCode.OUTPUT, message="confidence = 1.7 outside [0, 1]")
PROFILE = Profile(
    python="3.11.2",
    machine="aarch64",
    tags=["cp311-cp311-linux_aarch64", "py3-none-any"],
    distributions={"numpy": "1.26.4"},
    environment={"os_name": "posix"},
    memory_bytes=1,
)


# --- systemd ---------------------------------------------------------------------------------------------------------


class Manager:
    """The service manager's end of `NOTIFY_SOCKET`."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + address[1:] if address.startswith("@") else address)
        self.socket.settimeout(5.0)

    def heard(self) -> str:
        return self.socket.recv(4096).decode()

    def silent(self) -> bool:
        self.socket.setblocking(False)
        try:
            self.socket.recv(4096)
        except BlockingIOError:
            return True
        return False


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    return str(tmp_path / "n") if request.param == "path" else f"@fieldcast-{os.getpid()}-{tmp_path.name}"


@pytest.fixture
def manager(address: str) -> Iterator[Manager]:
    made = Manager(address)
    yield made
    made.socket.close()


def test_messages_reach_the_manager(manager: Manager, address: str) -> None:
    Systemd({"NOTIFY_SOCKET": address}).notify("READY=1\nSTATUS=läuft")
    assert manager.heard() == "READY=1\nSTATUS=läuft"


def test_the_watchdog_is_fed_at_a_third_of_its_interval(manager: Manager, address: str) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())})
    assert systemd.watchdog_seconds == 10.0
    systemd.feed(100.0)
    assert manager.heard() == "WATCHDOG=1"
    systemd.feed(109.9)
    assert manager.silent()
    manager.socket.settimeout(5.0)
    systemd.feed(110.0)
    assert manager.heard() == "WATCHDOG=1"


@pytest.mark.parametrize(
    "environment",
    [{}, {"WATCHDOG_USEC": ""}, {"WATCHDOG_USEC": "0"}, {"WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1"}],
)
def test_without_a_watchdog_of_ours_nothing_is_fed(manager: Manager, address: str, environment: dict[str, str]) -> None:
    systemd = Systemd({"NOTIFY_SOCKET": address, **environment})
    assert systemd.watchdog_seconds is None
    systemd.feed(1e9)
    assert manager.silent()


def test_without_systemd_every_call_is_a_no_op(tmp_path: Path) -> None:
    Systemd({}).notify("READY=1")
    Systemd({"NOTIFY_SOCKET": str(tmp_path / "gone")}).notify("READY=1")


@pytest.mark.parametrize(("journal", "stamped"), [({}, True), ({"JOURNAL_STREAM": "8:1"}, False)])
def test_log_lines_carry_a_time_only_where_the_journal_does_not_add_one(journal: dict[str, str], stamped: bool) -> None:
    code = (
        "import logging; from edge_agent.telemetry import set_up_logging; set_up_logging('WARNING')\n"
        "logging.getLogger('x').info('quiet'); logging.getLogger('x').warning('event slot=%s', 'a')"
    )
    environment = {key: value for key, value in os.environ.items() if key != "JOURNAL_STREAM"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**environment, **journal},
        capture_output=True,
        text=True,
        timeout=120,
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith("WARNING x: event slot=a")
    assert (line == "<4>WARNING x: event slot=a") is not stamped
    assert logging.getLogger("x").level == logging.NOTSET


# --- rates -----------------------------------------------------------------------------------------------------------


def test_rates_are_reckoned_over_at_least_half_a_second() -> None:
    rates = Rates()
    assert rates.update("a", 1000, 10.0) == 0.0
    assert rates.update("a", 1100, 10.2) == 0.0
    assert rates.update("a", 1200, 11.0) == 200.0
    assert rates.update("a", 9999, 11.1) == 200.0
    assert rates.update("b", 5, 11.1) == 0.0
    assert rates.update("a", 1200, 12.0) == 0.0


# --- slots and channels ----------------------------------------------------------------------------------------------


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = Store(tmp_path / "agent.db")
    yield opened
    opened.close()


def deployment(store: Store, release: str, state: State, now: float, reasons: tuple[Reason, ...] = ()) -> Deployment:
    with store.transaction():
        made = store.add_deployment(slot="a", channel="c", release=release, digest=Digest.of(release.encode()), now=now)
        store.save_deployment(
            msgspec.structs.replace(made, state=state, reasons=reasons), event="x", before=made.state, now=now
        )
        if state is State.COMMITTED:
            store.set_active("a", made.id)
    return store.deployment(made.id)


def told(store: Store) -> SlotReport:
    return slot_report(store, "a", "c", {"samples": 5, "errors": 1}, 2.5)


def test_an_empty_slot_says_so(store: Store) -> None:
    assert told(store) == SlotReport(
        pipeline="a", channel="c", counters={"errors": 1, "samples": 5}, samples_per_second=2.5
    )
    assert list(told(store).counters) == ["errors", "samples"]


@pytest.mark.parametrize(
    ("history", "active", "candidate", "last", "state"),
    [
        ([("a@1", State.COMMITTED, 1.0)], "a@1", "", "a@1", "committed"),
        ([("a@1", State.REJECTED, 1.0)], "", "", "a@1", "rejected"),
        ([("a@1", State.COMMITTED, 1.0), ("a@2", State.SHADOW, 2.0)], "a@1", "a@2", "a@2", "shadow"),
        ([("a@1", State.COMMITTED, 1.0), ("a@2", State.ROLLED_BACK, 2.0)], "a@1", "", "a@2", "rolled_back"),
        ([("a@1", State.ROLLED_BACK, 1.0), ("a@2", State.COMMITTED, 2.0)], "a@2", "", "a@2", "committed"),
        ([("a@1", State.SUPERSEDED, 3.0), ("a@2", State.COMMITTED, 2.0)], "a@2", "", "a@2", "committed"),
    ],
)
def test_a_slot_tells_what_happened_last(
    store: Store, history: list[tuple[str, State, float]], active: str, candidate: str, last: str, state: str
) -> None:
    for release, where, now in history:
        deployment(store, release, where, now, (REASON,) if where is State.ROLLED_BACK else ())
    found = told(store)
    assert (found.active, found.candidate, found.last, found.state) == (active, candidate, last, state)
    assert found.reasons == ([REASON] if state == "rolled_back" else [])
    assert found.last_digest == Digest.of(last.encode())
    assert found.active_digest == (Digest.of(active.encode()) if active else "")
    assert found.candidate_digest == (Digest.of(candidate.encode()) if candidate else "")


def test_a_channel_tells_how_fresh_it_is_and_what_was_refused(store: Store) -> None:
    assert channel_status(store, "c", 5.0) == {}
    with store.transaction():
        store.save_trust(Trust(channel="c", envelope=b"", verified=b"", accepted=10.4, expires=100.0), {})
    assert channel_status(store, "c", 99.0) == {"accepted": 10, "expires": 100}
    assert channel_status(store, "c", 101.0)["stale_since"] == 100
    with store.transaction():
        store.raise_fact("clock", 500.0)
        store.save_refusal(Refusal(channel="c", at=60.0, digest=Digest.of(b""), reasons=(REASON,)))
    assert channel_status(store, "c", 50.0) == {
        "accepted": 10,
        "expires": 100,
        "stale_since": 100,
        "refused_at": 60,
        "refused": ({"code": "output", "message": REASON.message},),
    }


def test_a_channel_says_when_the_clock_cannot_be_right(store: Store) -> None:
    day = 86_400.0
    with store.transaction():
        store.raise_fact("clock", 100 * day)
    assert channel_status(store, "c", 100 * day) == {}
    assert "behind by 100.0 days" in channel_status(store, "c", 0.0)["clock"]
    reasons = tuple(Reason(code=code, message=f"{code.value}!") for code in (ReasonCode.EXPIRED, ReasonCode.CLOCK))
    with store.transaction():
        store.save_refusal(Refusal(channel="c", at=1.0, digest=Digest.of(b"x"), reasons=reasons))
    assert channel_status(store, "c", 900 * day)["clock"] == "clock!"


def test_a_report_travels_whole(store: Store) -> None:
    deployment(store, "a@1", State.ROLLED_BACK, 1.0, (REASON,))
    made = report(
        fleet="plant",
        device="m1",
        labels={"line": "3"},
        boot=2,
        counter=7,
        version="0.1.0",
        slots=[told(store)],
        channels={"c": channel_status(store, "c", 1.0)},
        profile=PROFILE,
    )
    found = decode_report(encode_report(made))
    assert found == made
    assert (found.fleet, found.device, found.labels, found.boot, found.counter) == ("plant", "m1", {"line": "3"}, 2, 7)
    assert found.profile == profile_summary(PROFILE)


def test_the_profile_is_shortened_for_the_road() -> None:
    found = profile_summary(PROFILE)
    assert found["tags"] == ["cp311-cp311-linux_aarch64", "py3-none-any"]
    assert found["distributions"] == {"numpy": "1.26.4"}
    assert "environment" not in found
