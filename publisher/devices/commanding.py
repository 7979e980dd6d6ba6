"""Sends one command to one device and waits for its answer (T8).

A command is signed with an operator's key that the channel's signed metadata lists, names this run of the device's
agent and is good for two minutes. The issuer's counter never goes back, not even with the clock. The answer is believed
as a report is: by the device's own signature, unless the fleet has no enrolled device.
"""

from __future__ import annotations

import fcntl
import os
import queue
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec

from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.dsse import Signer
from edge_agent.contract.errors import AuthorError, ConfigError, StoreError, TransportError
from edge_agent.contract.messages import Topics
from edge_agent.contract.reports import Answer, Command, Report, encode, parse
from edge_agent.contract.verification import Operator
from edge_agent.transport.client import Client
from publisher.config import Home, load_home
from publisher.devices.fleet import Fleet
from publisher.devices.standing import Standing, judge_answer
from publisher.record import Record
from publisher.trust.keys import KeyStore
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.repository import Channel
from publisher.trust.rotation import operators_of
from publisher.uplink import connect

__all__ = ["CommandResult", "send"]

GOOD_SECONDS = 120
SEND_SECONDS = 10.0
GRACE_SECONDS = 1.0
COUNTERS = "commands.json"


class CommandResult(msgspec.Struct, frozen=True, kw_only=True):
    """What became of a command: `done`, `refused` (and why) or `timed_out`; `standing` is the answer's."""

    device: str
    type: str
    arguments: list[str]
    issuer: str
    ending: str
    words: str
    standing: Standing | None = None
    seconds: float = 0.0


def send(
    device: str,
    kind: str,
    arguments: Sequence[str] = (),
    *,
    channel: str | None = None,
    operator: str | None = None,
    timeout_seconds: float = 30.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
) -> CommandResult:
    """Send one command to `device` and return what it answered.

    `operator` names whose key signs, needed when this home holds several; `channel` lists it, needed when several do.
    Raises `ConfigError` for names that are not there, `AuthorError` for keys, `TransportError` for broker or device.
    """
    started = time.monotonic()
    place = load_home(home)
    listed = _listed(place, channel, operator)
    signer = _signer(place, listed, passphrase)
    with connect(place) as client, Fleet.of(place).listening(client) as fleet:
        report = _known(fleet, device)
        command = _command(place, report, listed, kind, arguments)
        found = _Exchange(client, fleet, command, report.refused_commands).over(signer, timeout_seconds)
    return msgspec.structs.replace(found, seconds=round(time.monotonic() - started, 3))


# --- who asks --------------------------------------------------------------------------------------------------------


def _listed(home: Home, channel: str | None, name: str | None) -> Operator:
    """Return the operator whose key this home holds, under the operator's name."""
    keys, channels = KeyStore(home.keys), [home.require_channel(channel)] if channel else home.channels
    there = [
        one
        for each in channels
        for one in operators_of(Channel(Record(home.record_location), home.fleet, each).roles())
    ]
    found = {one.keyid: one for one in there if name in (None, one.name) and keys.has(one.name)}
    if len(found) == 1:
        return next(iter(found.values()))
    if found:
        raise ConfigError(f"which operator? --as {'|'.join(sorted(one.name for one in found.values()))}")
    known = ", ".join(sorted({one.name for one in there})) or "none"
    raise AuthorError(
        f"this home holds the key of no operator{f' {name}' if name else ''}; listed: {known}; "
        f"add one: `publisher key add {channels[0]} operator NAME --command TYPE`"
    )


def _signer(home: Home, listed: Operator, passphrase: Passphrase) -> Signer:
    secret = passphrase if isinstance(passphrase, str) else passphrase()
    signer = KeyStore(home.keys).signer(listed.name, secret)
    if signer.public_key.keyid != listed.keyid:
        raise AuthorError(f"key {listed.name} in {home.keys} is not the one that the channel lists under that name")
    return Signer(sign=lambda data: bytes.fromhex(signer.sign(data).signature), keyid=listed.keyid)


def _counter(home: Home, keyid: str) -> int:
    """Return the next number of an issuer: microseconds since 1970, and above every earlier one of this home."""
    path = home.path / COUNTERS
    try:
        with path.open("a+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            file.seek(0)
            known = decode_json(file.read() or b"{}", dict[str, int])
            known[keyid] = max(known.get(keyid, 0) + 1, int(time.time() * 1e6))
            file.truncate(0)
            file.write(encode_json(known))
            file.flush()
            os.fsync(file.fileno())
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"{path} cannot be used: {error}") from None
    return known[keyid]


# --- whom ------------------------------------------------------------------------------------------------------------


def _known(fleet: Fleet, device: str) -> Report:
    """Return the device's report, of the run of its agent that is there now if that is known in time."""

    def there(fleet: Fleet) -> bool:
        report = fleet.reports.get(device)
        return report is not None and fleet.sessions.get(device, "") in ("", report.session)

    fleet.settle()
    fleet.wait_for(there, GRACE_SECONDS)
    report = fleet.reports.get(device)
    if report is None:
        shown = next((one for one in fleet.devices() if one.device == device), None)
        if shown is not None:
            raise TransportError(f"{device}'s report does not count ({shown.standing.value}): it {shown.why}")
        raise ConfigError(f"no device {device!r} has reported; there is {', '.join(sorted(fleet.reports)) or 'none'}")
    if not fleet.online.get(device, False) or not report.session:
        raise TransportError(f"{device} is offline: a command is for an agent that runs; send it again later")
    return report


def _command(home: Home, report: Report, listed: Operator, kind: str, arguments: Sequence[str]) -> Command:
    now = time.time()
    return Command(
        format=1,
        fleet=home.fleet,
        device=report.device,
        session=report.session,
        type=kind,
        issuer=listed.name,
        counter=_counter(home, listed.keyid),
        issued=round(now, 3),
        expires=round(now + GOOD_SECONDS, 3),
        response_topic=Topics(home.fleet).answer(report.device, os.urandom(8).hex()),
        arguments=list(arguments),
    )


# --- asking and hearing ----------------------------------------------------------------------------------------------


class _Exchange:
    """One command on its way and back. `refused` is how many the device had refused before."""

    def __init__(self, client: Client, fleet: Fleet, command: Command, refused: int) -> None:
        self._client, self._fleet, self._command, self._refused = client, fleet, command, refused
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._doubt = ""

    def over(self, signer: Signer, timeout_seconds: float) -> CommandResult:
        """Send it and wait for an answer that counts, or for the device's report of a refusal."""
        command, topic = self._command, self._command.response_topic
        with self._client.listening(lambda heard, data, _: self._answers.put(data) if heard == topic else None):
            self._client.subscribe([topic])
            try:
                self._client.publish(
                    Topics(command.fleet).command(command.device),
                    encode(command, signer),
                    properties={
                        "ResponseTopic": topic,
                        "CorrelationData": f"{command.issuer}:{command.counter}".encode(),
                        "MessageExpiryInterval": GOOD_SECONDS,
                    },
                ).wait(SEND_SECONDS)
                return self._heard(time.monotonic() + timeout_seconds, timeout_seconds)
            finally:
                self._client.unsubscribe([topic])

    def _heard(self, deadline: float, timeout_seconds: float) -> CommandResult:
        told_since = 0.0
        while (now := time.monotonic()) < deadline:
            try:
                result = self._judged(self._answers.get(timeout=min(0.2, deadline - now)))
            except queue.Empty:
                result = None
            if result is not None:
                return result
            report = self._fleet.reports.get(self._command.device)
            if report is not None and report.refused_commands > self._refused:
                # A refusal of what is not even an operator's has no answer; a refusal that has one is on its way.
                told_since = told_since or now
                if now - told_since > GRACE_SECONDS:
                    return self._result("refused", f"{report.refused_command} (from its report)", None)
        return self._result("timed_out", f"no answer within {timeout_seconds:g} s{self._doubt}", None)

    def _judged(self, data: bytes) -> CommandResult | None:
        command = self._command
        try:
            answer, sealed = parse(data, Answer)
        except ValueError as error:
            self._doubt = f"; one could not be read: {error}"
            return None
        verdict = judge_answer(
            answer,
            sealed,
            fleet=command.fleet,
            device=command.device,
            trusted=self._fleet.trusted,
            now=time.time(),
        )
        if not verdict.counts:
            self._doubt = f"; one does not count ({verdict.standing.value}): it {verdict.words}"
            return None
        if (answer.issuer, answer.counter, answer.session) != (command.issuer, command.counter, command.session):
            self._doubt = "; one was for another command"
            return None
        return self._result("done" if answer.done else "refused", answer.words, verdict.standing)

    def _result(self, ending: str, words: str, standing: Standing | None) -> CommandResult:
        command = self._command
        return CommandResult(
            device=command.device,
            type=command.type,
            arguments=command.arguments,
            issuer=command.issuer,
            ending=ending,
            words=words,
            standing=standing,
        )
