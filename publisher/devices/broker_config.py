"""What a mosquitto is told that only the fleet may use: mutual TLS, access by certificate, bounds on everything. Pure.

It decides who may do what: a device writes below its own name and reads what is for all; the publisher writes what
devices read; nobody else gets in. It knows mosquitto 2.0 and newer, and neither files nor keys: see `broker_directory`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import PurePath

import msgspec

from edge_agent.contract.certificates import PUBLISHER
from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import Topics
from edge_agent.transport.session import PACKET_BYTES_MAX

__all__ = ["YOURS", "BrokerSetup", "access_list", "configuration", "data_rule", "default_data", "mark"]

YOURS = "# Yours: what stands below this line is kept."


class BrokerSetup(msgspec.Struct, frozen=True, kw_only=True):
    """How the fleet's broker is set up, as kept in the home.

    `hosts` are the names by which clients call it, the first in URLs. `bind` is where it listens (empty: everywhere),
    `data` the access rules for data topics, `out` the directory written here, `at` where that directory lies on the
    broker's machine.
    """

    hosts: list[str]
    port: int
    bind: str = ""
    data: list[str]
    out: str
    at: str

    @property
    def url(self) -> str:
        """The broker's URL for every client."""
        host = self.hosts[0]
        return f"mqtts://{f'[{host}]' if ':' in host else host}:{self.port}"


def default_data(fleet: str) -> str:
    """Return the rule for data topics when none is given: a tree of its own for each device."""
    return f"readwrite fieldcast/{fleet}/data/%u/#"


def data_rule(fleet: str, text: str) -> str:
    """Return an access rule `[read|write|readwrite] PATTERN`, checked; `%u` stands for the device's id.

    Raises `ConfigError` for a pattern that would let a device write what is not its own, or into Fieldcast's topics.
    """
    access, _, pattern = text.strip().rpartition(" ")
    access = access.strip() or "readwrite"
    levels = pattern.split("/")
    if access not in ("read", "write", "readwrite") or not pattern or re.search(r"[\x00-\x20]", pattern):
        raise ConfigError(f"data topic {text!r}: want [read|write|readwrite] PATTERN, such as 'write results/%u'")
    if any(("%" in level and level != "%u") for level in levels):
        raise ConfigError(f"data topic {text!r}: %u stands for the device's id and is a whole level")
    if access != "read" and "%u" not in levels:
        raise ConfigError(f"data topic {text!r}: name the device (%u), or one device could write what is another's")
    if levels[0] in ("+", "#", "%u") or pattern.startswith("$"):
        raise ConfigError(f"data topic {text!r}: its first level must be a word of its own")
    if levels[0] == "fieldcast" and levels[:3] != ["fieldcast", fleet, "data"]:
        raise ConfigError(f"data topic {text!r}: below fieldcast/ only fieldcast/{fleet}/data/ is for data")
    return f"{access} {pattern}"


def mark(fleet: str) -> str:
    """Return the first line of what is written for a fleet, by which it is known again."""
    return f"# Written by `publisher broker config` for fleet {fleet}; run it again rather than edit."


def configuration(fleet: str, setup: BrokerSetup) -> str:
    """Return mosquitto.conf."""
    at = PurePath(setup.at)
    listener = f"listener {setup.port} {setup.bind}".rstrip()
    return _CONFIGURATION.format(
        mark=mark(fleet),
        listener=listener,
        at=at,
        packet_bytes_max=PACKET_BYTES_MAX,
    )


def access_list(fleet: str, data: Iterable[str], barred: Iterable[str] = (), yours: str = "") -> str:
    """Return the access list. `barred` are devices without any certificate that is good: connected or not, they get
    nothing. What stands in `yours` is appended.
    """
    topics = Topics(fleet)
    own = [topics.every(leaf).replace("+", "%u") for leaf in ("online", "report", "event", "incident/#", "answer/#")]
    lines = [
        mark(fleet),
        "",
        "# The publisher: the only one who announces, sends blobs and gives commands.",
        f"user {PUBLISHER}",
        f"topic read {topics.everything()}",
        *(f"topic write fieldcast/{fleet}/{one}" for one in ("channel/+/trust", "blob/#", "device/+/command")),
        "",
        "# Every device (%u: the id in its certificate): its own voice, and what is for all. mosquitto warns of",
        "# patterns without %u; these are meant so.",
        *(f"pattern write {one}" for one in own),
        *(f"pattern read fieldcast/{fleet}/{one}" for one in ("channel/+/trust", "blob/#", "device/%u/command")),
        *(f"pattern {rule}" for rule in data),
    ]
    for device in sorted(barred):
        lines += ["", f"user {device}", "topic deny #"]
    return "\n".join([*lines, "", YOURS, yours.strip("\n"), ""])


_CONFIGURATION = """\
{mark}
# Who may connect: holders of a certificate of the fleet's authority that is not revoked. Nobody else, at all.
per_listener_settings false
{listener}
tls_version tlsv1.2
cafile {at}/ca.pem
certfile {at}/broker.pem
keyfile {at}/broker.key
crlfile {at}/revoked.pem
require_certificate true
use_identity_as_username true
allow_anonymous false
acl_file {at}/acl

# What is kept over a restart.
persistence true
persistence_location {at}/data/
autosave_interval 60
persistent_client_expiration 14d

# Without it a round trip at QoS 1 waits for the kernel: 88 ms instead of 0.7.
set_tcp_nodelay true

# Bounds: on a message, a client's queue, its silence, and the whole process.
max_packet_size {packet_bytes_max}
max_inflight_messages 100
max_queued_messages 10000
max_queued_bytes 67108864
max_keepalive 600
memory_limit 1073741824

log_dest stderr
log_type error
log_type warning
log_type notice
"""
