"""Who holds which key of a channel, and how that changes: what `publisher key` does.

It joins a home, its keys, the record and (where it can be reached) the broker. A change is signed by the keys at hand;
what they do not suffice for waits in the record for the others. Private keys are made here and never leave; what is
handed on is a public half.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from edge_agent.contract.errors import AuthorError, ConfigError, TransportError
from edge_agent.contract.manifest import check_name
from edge_agent.contract.reports import COMMANDS
from publisher.config import Home, load_home
from publisher.contention import rebased
from publisher.desk import Progress, signer
from publisher.record import Record
from publisher.trust.keys import KeyStore, public_key, public_pem
from publisher.trust.passphrase import Passphrase, ask
from publisher.trust.renewal import offered
from publisher.trust.repository import Channel
from publisher.trust.roles import DELEGATED, ROLES, Roles, key_name, name_of, named
from publisher.trust.rotation import (
    OPERATOR,
    check_role,
    found_key,
    operators_of,
    require_threshold,
    with_key,
    with_operator,
    without_key,
    without_operator,
)
from publisher.trust.signers import Key
from publisher.uplink import Uplink, connect

__all__ = [
    "Custodian",
    "KeyListed",
    "RoleListed",
    "add_key",
    "drop_change",
    "export_key",
    "list_keys",
    "renew_roles",
    "revoke_key",
    "rotate_key",
    "sign_change",
]

_PUBLIC_BYTES_MAX = 16 * 1024
_UNANNOUNCED = "published in the record, but not announced ({why}): run `publisher refresh` where the broker is"
Change = Callable[[Roles], Roles]


class KeyListed(msgspec.Struct, frozen=True, kw_only=True):
    """A key in force. `here`: a private key of this name is at hand. `scope` is an operator's."""

    name: str
    keyid: str
    here: bool
    scope: list[str] = []


class RoleListed(msgspec.Struct, frozen=True, kw_only=True):
    """A role of a channel, the keys in force and how many of them must sign. `expires` is seconds UTC, 0 for never."""

    channel: str
    role: str
    threshold: int
    expires: float
    keys: list[KeyListed]


@dataclass(frozen=True, kw_only=True)
class Custodian:
    """Who acts: on which home, with which key directories, and how the passphrase is come by."""

    home: str | Path | None = None
    directories: Sequence[Path] = ()
    passphrase: Passphrase = ask
    progress: Progress = field(default=lambda words: None)

    def place(self) -> Home:
        """Return the home."""
        return load_home(self.home)

    def keys(self) -> KeyStore:
        """Return the keys. Raises `ConfigError` for a directory that is none."""
        for one in self.directories:
            if not one.is_dir():
                raise ConfigError(f"key directory {one} is not there: is the disk or stick that holds it mounted?")
        return KeyStore(self.place().keys, *self.directories)

    def secret(self) -> str:
        """Return the passphrase."""
        return self.passphrase if isinstance(self.passphrase, str) else self.passphrase()

    def channel(self, name: str) -> Channel:
        """Return a channel of the home."""
        home = self.place()
        return Channel(Record(home.record_location), home.fleet, home.require_channel(name))


# --- look ------------------------------------------------------------------------------------------------------------


def list_keys(who: Custodian, channels: Sequence[str] = ()) -> list[RoleListed]:
    """Return the roles of `channels` (default: all) with their keys, from the record. Needs no passphrase."""
    keys, found = who.keys(), []
    for name in channels or who.place().channels:
        roles = who.channel(name).roles()
        for role in ROLES:
            held = [
                KeyListed(name=title, keyid=keyid, here=keys.has(title))
                for keyid, title in (
                    (one, name_of(key, key_name(name, role))) for one, key in roles.keys_of(role).items()
                )
            ]
            expires, threshold = roles.named(role).expires.timestamp(), roles.authorised(role).threshold
            found.append(RoleListed(channel=name, role=role, threshold=threshold, expires=expires, keys=held))
        listed = [
            KeyListed(name=one.name, keyid=one.keyid, here=keys.has(one.name), scope=one.scope)
            for one in operators_of(roles)
        ]
        if listed:
            found.append(RoleListed(channel=name, role=OPERATOR, threshold=1, expires=0.0, keys=listed))
    return found


def export_key(who: Custodian, name: str, *, new: bool = False) -> bytes:
    """Return the public half of a key as PEM: from what is signed, else from the private key here.

    `new` makes the key first, for somebody else to add. Raises `AuthorError` if there is none of this name.
    """
    keys = who.keys()
    if new:
        keys.create([_checked(name)], who.secret())
    for channel in who.place().channels if not new else ():
        roles = who.channel(channel).roles()
        for role in ROLES:
            for key in roles.keys_of(role).values():
                if name_of(key, key_name(channel, role)) == name:
                    return public_pem(key)
    return public_pem(keys.signer(_checked(name), who.secret()).public_key)


# --- change ----------------------------------------------------------------------------------------------------------


def add_key(
    who: Custodian,
    channel: str,
    role: str,
    name: str = "",
    *,
    public: Path | None = None,
    threshold: int | None = None,
    scope: Sequence[str] = (),
) -> str:
    """Put a key in force for a role: a new one, one that lies here under `name`, or somebody's public half.

    An `operator` needs a name, and a scope of command types. Returns how it ended, in words. Raises `AuthorError`,
    `ConfigError`, `Waiting`, `Conflict`, `UpdateRejected`.
    """
    if check_role(role) == OPERATOR and (not (name or public) or not scope):
        raise ConfigError("an operator needs a name and at least one --command that the key may send")
    if role != OPERATOR and scope:
        raise ConfigError(f"--command is an operator's: role {role} has no scope")
    if role == OPERATOR and threshold is not None:
        raise ConfigError("operators sign alone: leave --threshold out")
    if unknown := sorted({*scope} - {*COMMANDS}):
        raise ConfigError(f"unknown command {unknown[0]!r}: there are {', '.join(COMMANDS)}")
    place, secret = _ready(who, channel)
    require_threshold(role, threshold, len(place.roles().keys_of(role)) + 1 if role != OPERATOR else 1)
    title, key = _key(who, place, role, name, public, secret)
    if role == OPERATOR:
        return _alter(who, place, secret, lambda roles: with_operator(roles, title, key, list(scope)))
    return _alter(who, place, secret, lambda roles: with_key(roles, role, named(key, title), threshold))


def rotate_key(who: Custodian, channel: str, role: str, name: str = "", *, public: Path | None = None) -> str:
    """Replace one key of a role by a new one made here (or by somebody's public half).

    `name` says which; it may be left out where there is only one. The snapshot's key never changes without one of the
    timestamp's: only so may the numbers of both start again, which recovers devices that a thief has sent ahead (T5).
    """
    _require_no_operator(role, "revoke the operator's key and add another")
    place, secret = _ready(who, channel)
    turns = [(role, _chosen(place, role, name))]
    if role == "snapshot":
        held = place.roles().keys_of("timestamp")
        here = [keyid for keyid, key in held.items() if who.keys().has(name_of(key, key_name(channel, "timestamp")))]
        turns.append(("timestamp", (here or list(held))[0]))
    fresh = [(one, keyid, *_key(who, place, one, "", public if one == role else None, secret)) for one, keyid in turns]

    def change(roles: Roles) -> Roles:
        for one, keyid, title, key in fresh:
            roles = without_key(with_key(roles, one, named(key, title)), one, keyid)
        return roles

    return _alter(who, place, secret, change)


def revoke_key(who: Custodian, channel: str, role: str, name: str, *, threshold: int | None = None) -> str:
    """Take a key, by name or key id, out of force for a role. What is left must reach the threshold."""
    check_role(role)
    place, secret = _ready(who, channel)
    if role == OPERATOR:
        return _alter(who, place, secret, lambda roles: without_operator(roles, name))
    keyid = found_key(place.roles(), channel, role, name)
    return _alter(who, place, secret, lambda roles: without_key(roles, role, keyid, threshold))


def renew_roles(who: Custodian, channel: str) -> str:
    """Sign root and what it delegates anew, with new expiry and the same keys."""
    place, secret = _ready(who, channel)
    return _alter(who, place, secret, lambda roles: roles, ("root", "targets", *DELEGATED))


def sign_change(who: Custodian, channel: str, confirm: Callable[[Sequence[str]], bool]) -> str:
    """Add this workstation's signatures to the change that waits; publish it once it has enough.

    `confirm` is shown what would be signed, in words, and says whether to. Raises `AuthorError` if nothing waits.
    """
    place = who.channel(channel)
    proposal = place.waiting(who.keys())
    if proposal is None:
        raise AuthorError(f"nothing waits in channel {channel}")
    if not confirm(proposal.words):
        return "nothing was signed"
    secret = who.secret()
    act = functools.partial(place.sign, proposal, keys=who.keys(), passphrase=secret)
    return _announced(who, place, act, root="root" in proposal.changed)


def drop_change(who: Custodian, channel: str) -> str:
    """Drop the change that waits. Raises `AuthorError` if none does."""
    if not who.channel(channel).drop():
        raise AuthorError(f"nothing waits in channel {channel}")
    return f"the change that waited in channel {channel} is dropped"


# --- steps -----------------------------------------------------------------------------------------------------------


def _ready(who: Custodian, channel: str) -> tuple[Channel, str]:
    """Return channel and passphrase, before any key is made."""
    place = who.channel(channel)
    place.roles()
    return place, who.secret()


def _key(who: Custodian, channel: Channel, role: str, name: str, public: Path | None, secret: str) -> tuple[str, Key]:
    """Return name and public half of the key to put in force; make it if there is none."""
    if public is not None:
        return _checked(name or public.stem), public_key(_read(public), str(public))
    keys = who.keys()
    title = _checked(name) if name else _new_name(keys, channel, role)
    if not keys.has(title):
        keys.create([title], secret)
        who.progress(f"made key {title} in {keys.directory}")
    return title, keys.signer(title, secret).public_key


def _new_name(keys: KeyStore, channel: Channel, role: str) -> str:
    """Return a name that no other key had: its number is above all in force, and above the version that listed them."""
    roles = channel.roles()
    stem = key_name(channel.name, role)
    taken = [name_of(key, stem) for key in roles.keys_of(role).values()]
    ends = [name.removeprefix(f"{stem}-") for name in taken]
    version = roles.named("targets" if role in DELEGATED else "root").version
    first = 1 + max([version, *(int(end) for end in ends if end.isdecimal())])
    return next(
        name
        for name in (key_name(channel.name, role, number) for number in itertools.count(first))
        if name not in taken and not keys.has(name)
    )


def _chosen(channel: Channel, role: str, name: str) -> str:
    check_role(role)
    held = (roles := channel.roles()).keys_of(role)
    if not name and len(held) == 1:
        return next(iter(held))
    if not name:
        listed = ", ".join(name_of(key, key_name(channel.name, role)) for key in held.values())
        raise ConfigError(f"role {role} of channel {channel.name} has {len(held)} keys: say which, of {listed}")
    return found_key(roles, channel.name, role, name)


def _alter(who: Custodian, channel: Channel, secret: str, change: Change, renewed: tuple[str, ...] = ()) -> str:
    before = channel.roles()
    root = bool(renewed) or change(before).root.to_dict() != before.root.to_dict()

    act = functools.partial(channel.alter, change, keys=who.keys(), passphrase=secret, renewed=renewed, by=signer())
    return _announced(who, channel, lambda: rebased(act), root=root)


def _announced(who: Custodian, channel: Channel, act: Callable[[], bytes], *, root: bool) -> str:
    """Act, and announce what was published if the broker can be reached; return what became of it, in words.

    A new root goes before everything that the broker may hold, also before what a thief has signed with high numbers:
    only then are the histories compared afterwards, and not before.
    """
    with ExitStack() as stack:
        uplink, why = None, ""
        try:
            uplink = Uplink(stack.enter_context(connect(who.place())), channel)
        except TransportError as error:  # keys may well be changed where there is no broker
            why = str(error)
        if uplink is not None and not root:
            uplink.require_one_history()
        envelope = act()
        if uplink is not None:
            try:
                uplink.require_one_history()
                uplink.send_blobs(offered(channel))
                uplink.announce(envelope)
            except TransportError as error:
                why = str(error)
    return _UNANNOUNCED.format(why=why) if why else "published and announced"


def _require_no_operator(role: str, instead: str) -> None:
    if check_role(role) == OPERATOR:
        raise ConfigError(f"operators have no key to rotate: {instead}")


def _checked(name: str) -> str:
    try:
        return check_name("key", name)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _read(file: Path) -> bytes:
    try:
        with file.open("rb") as stream:
            return stream.read(_PUBLIC_BYTES_MAX)
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
