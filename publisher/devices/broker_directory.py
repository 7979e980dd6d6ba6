"""The directory that a mosquitto is started on: what `publisher broker config` writes, and writes again.

Run again, it keeps keys and certificates, and renews what ends soon or names other hosts. It never touches a directory
that it did not write. It decides nothing about access (`broker_config` does) and starts no broker.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge_agent.contract import certificates
from edge_agent.contract.certificates import PUBLISHER
from edge_agent.contract.digest import decode_json, encode_json
from edge_agent.contract.errors import ConfigError
from edge_agent.transport.address import Address
from publisher.config import FILE_NAME, Home, quoted
from publisher.devices.authority import DAYS, Authority, new_key, private_pem, same_hosts
from publisher.devices.broker_config import (
    YOURS,
    BrokerSetup,
    access_list,
    configuration,
    data_rule,
    default_data,
    mark,
)
from publisher.devices.whole_file import CLOSED, OPEN, differs, write_whole

__all__ = ["Written", "access_lines", "certify_publisher", "is_used", "planned", "refresh", "setup_of", "use", "write"]

_ACCESS = {"ca": "ca/ca.pem", "cert": "ca/publisher.pem", "key": "ca/publisher.key"}
RENEW_SECONDS = 60 * 86_400
_SECTION = re.compile(r"^\[", re.MULTILINE)


def setup_of(home: Home) -> BrokerSetup | None:
    """Return how the fleet's broker is set up, None before `broker config`. Raises `ConfigError` for a damaged file."""
    path = _setup_path(home)
    try:
        return decode_json(path.read_bytes(), BrokerSetup)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise ConfigError(
            f"{path} cannot be read ({error}): remove it and run `publisher broker config` again"
        ) from None


def planned(
    home: Home,
    *,
    out: Path | None,
    hosts: Sequence[str] = (),
    port: int | None = None,
    bind: str | None = None,
    data: Sequence[str] = (),
    at: str | None = None,
) -> BrokerSetup:
    """Return the setup: what is given, else what it was, else what the broker's URL in the home says."""
    before = setup_of(home)
    if out is None and before is None:
        raise ConfigError("say where the broker's files go: --out DIR")
    address = Address.parse(home.broker.url)
    directory = str((out or Path(before.out if before else ".")).absolute())
    moved = before is None or before.out != directory
    names = list(hosts) or (before.hosts if before else _names_of(address.host))
    return BrokerSetup(
        hosts=names,
        port=port or (before.port if before else address.port if address.tls else 8883),
        bind=bind if bind is not None else before.bind if before else "",
        data=[data_rule(home.fleet, one) for one in data] or (before.data if before else [default_data(home.fleet)]),
        out=directory,
        at=at or (directory if moved or before is None else before.at),
    )


def _names_of(host: str) -> list[str]:
    return list(dict.fromkeys([host, "localhost", "127.0.0.1"])) if host in ("127.0.0.1", "localhost") else [host]


@dataclass(frozen=True)
class Written:
    """What `write` did: names of files that are new or changed, and of the certificates that were made."""

    changed: list[str]
    certified: list[str]


def write(
    home: Home, setup: BrokerSetup, authority: Authority, revocation_list: bytes, barred: Iterable[str], now: float
) -> Written:
    """Write the broker's directory and the publisher's own certificate; return what is new.

    Raises `ConfigError`, before anything is written, for a directory that holds somebody else's files.
    """
    out = Path(setup.out)
    _require_ours(out, home.fleet)
    try:
        (out / "data").mkdir(parents=True, exist_ok=True, mode=0o700)
        # First of all, since it has the mark: an interrupted run can be taken up.
        changed = _write_changed(out, {"mosquitto.conf": configuration(home.fleet, setup).encode()})
        certified = [
            *_server(out, setup, authority, now),
            *certify_publisher(home, authority, now),
        ]
        changed += refresh(home.fleet, setup, authority.pem, revocation_list, barred)
    except OSError as error:
        raise ConfigError(f"{error.filename or out} cannot be written: {error.strerror}") from None
    write_whole(_setup_path(home), msgspec.json.format(encode_json(setup), indent=2), OPEN)
    return Written(changed, certified)


def refresh(
    fleet: str, setup: BrokerSetup, authority_pem: bytes, revocation_list: bytes, barred: Iterable[str]
) -> list[str]:
    """Write what needs no key: configuration, access list, authority, revocation list; return what changed."""
    out = Path(setup.out)
    _require_ours(out, fleet)
    files = {
        "mosquitto.conf": configuration(fleet, setup).encode(),
        "acl": access_list(fleet, setup.data, barred, _yours(out / "acl")).encode(),
        "ca.pem": authority_pem,
        "revoked.pem": revocation_list,
    }
    return _write_changed(out, files)


def _write_changed(out: Path, files: Mapping[str, bytes]) -> list[str]:
    changed = [name for name, content in files.items() if differs(out / name, content)]
    for name in changed:  # newer mosquittos complain of an access list that others can read
        write_whole(out / name, files[name], CLOSED if name == "acl" else OPEN)
    return changed


def access_lines(url: str) -> list[str]:
    """Return the lines below `[broker]` in the home's configuration by which this workstation gets in."""
    return [f"{key} = {quoted(value)}" for key, value in {"url": url, **_ACCESS}.items()]


def is_used(home: Home, url: str) -> bool:
    """Tell whether the home gets into the broker at `url` in this way already."""
    broker = home.broker
    return (broker.url, broker.ca, broker.cert, broker.key) == (url, *_ACCESS.values())


def use(home: Home, url: str) -> list[str]:
    """Set the broker in the home's configuration, keeping its other lines; return the lines that were set."""
    lines = access_lines(url)
    path = home.path / FILE_NAME
    text = path.read_text()
    head, found, rest = text.partition("[broker]\n")
    if not found:
        raise ConfigError(f"{path}: there is no line [broker]; set it yourself:\n" + "\n".join(lines))
    after = _SECTION.search(rest)
    section, tail = (rest[: after.start()], rest[after.start() :]) if after else (rest, "")
    kept = [line for line in section.splitlines() if not re.match(rf"#?\s*(url|{'|'.join(_ACCESS)})\s*=", line)]
    write_whole(path, "\n".join([f"{head}[broker]", *lines, *kept, tail]).encode(), OPEN)
    return lines


def _setup_path(home: Home) -> Path:
    return home.path / "ca" / "broker.json"


def _require_ours(out: Path, fleet: str) -> None:
    first = mark(fleet)
    try:
        if out.exists() and _inhabited(out) and first not in (out / "mosquitto.conf").read_text().splitlines()[:1]:
            raise ConfigError(f"{out} holds a configuration that is not of fleet {fleet}'s broker: name another --out")
    except FileNotFoundError:
        raise ConfigError(f"{out} holds files that are not ours, and no mosquitto.conf: name another --out") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{out} cannot be used: {error}") from None


def _inhabited(out: Path) -> bool:
    return any(one.name != "data" for one in out.iterdir())


def _server(out: Path, setup: BrokerSetup, authority: Authority, now: float) -> list[str]:
    cert, key = out / "broker.pem", out / "broker.key"
    if _good(cert, key, authority, now) and same_hosts(cert.read_bytes(), setup.hosts):
        return []
    made = new_key()
    certificate = authority.server(setup.hosts, made.public_key(), now)
    write_whole(key, private_pem(made), CLOSED)
    write_whole(cert, certificate, OPEN)
    return [f"broker.pem for {', '.join(setup.hosts)}, good for {DAYS} days"]


def certify_publisher(home: Home, authority: Authority, now: float) -> list[str]:
    """Make this workstation's own key and certificate for the broker, unless it has good ones; return what is new."""
    directory = home.path / "ca"
    cert, key = directory / "publisher.pem", directory / "publisher.key"
    if _good(cert, key, authority, now):
        return []
    made = new_key()
    certificate = authority.client(PUBLISHER, made.public_key(), now)
    write_whole(key, private_pem(made), CLOSED)
    write_whole(cert, certificate, OPEN)
    return [f"publisher.pem for this workstation, good for {DAYS} days"]


def _good(cert: Path, key: Path, authority: Authority, now: float) -> bool:
    """Tell whether a certificate is there with its key, of this authority, and does not end soon."""
    if not (cert.exists() and key.exists()):
        return False
    try:
        pem = cert.read_bytes()
        return authority.issued(pem) and certificates.read(pem).ends - now > RENEW_SECONDS
    except ValueError:
        return False


def _yours(path: Path) -> str:
    try:
        return path.read_text().partition(YOURS)[2]
    except FileNotFoundError:
        return ""
