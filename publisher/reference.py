"""Which release a reference means: `name@sequence`, `name@channel`, `name@tag`, or the first digits of its digest.

Decides among the releases that the record lists; what no or more than one release answers to is refused, with those it
may have meant. A release promoted into a second channel is one release: the same bytes. Reads no manifest and no blob.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from edge_agent.contract.errors import ConfigError
from edge_agent.contract.messages import ReleaseInfo
from publisher.config import Home, load_home
from publisher.record import Record
from publisher.trust.repository import Channel

__all__ = ["FORMS", "Listing", "Release", "choose", "find", "is_reference", "listing"]

FORMS = "name@sequence, name@channel (what it offers now), name@tag, or at least 6 digits of the manifest's digest"
_SHOWN_MAX = 6
_NAMED = re.compile(r"([A-Za-z0-9][A-Za-z0-9_.-]*)@([A-Za-z0-9][A-Za-z0-9_.-]*)")
_PREFIX = re.compile(r"sha256:[0-9a-f]{1,64}|[0-9a-f]{6,64}")


@dataclass(frozen=True)
class Listing:
    """What the record lists: every release of the channels looked at, and what each offers now, by pipeline."""

    releases: Sequence[ReleaseInfo]
    offered: Mapping[str, Mapping[str, ReleaseInfo]] = field(default_factory=dict)


@dataclass(frozen=True)
class Release:
    """A release that a reference means, in the channel it was found in; `also` are its other names, same bytes."""

    info: ReleaseInfo
    channel: Channel
    home: Home
    also: tuple[ReleaseInfo, ...] = ()


def is_reference(text: str) -> bool:
    """Tell whether `text` is written like a reference and not like a TARGET (`module:attr`, `file.py`)."""
    if _NAMED.fullmatch(text):
        return not text.endswith(".py")
    return bool(_PREFIX.fullmatch(text)) and not Path(text).exists()


def find(text: str, *, home: str | Path | None = None, channel: str | None = None) -> Release:
    """Return the release that `text` means in the record of a home, in one channel only when it is given.

    Raises `ConfigError` when there is no home, no such channel, or not exactly one such release.
    """
    place = load_home(home)
    names = [place.require_channel(channel)] if channel else place.channels
    record = Record(place.record_location)
    channels = {name: Channel(record, place.fleet, name) for name in names}
    known = listing([one for one in channels.values() if one.exists()])
    info = choose(text, known)
    also = tuple(one for one in known.releases if one.digest == info.digest and one != info)
    return Release(info, channels[info.channel], place, also)


def listing(channels: Sequence[Channel]) -> Listing:
    """Read what some channels list and offer."""
    return Listing(
        releases=[info for channel in channels for info in channel.releases()],
        offered={channel.name: {name: info for name, (_, info) in channel.current().items()} for channel in channels},
    )


def choose(text: str, known: Listing) -> ReleaseInfo:
    """Return the release that `text` means; of several with the same bytes, the newest.

    Raises `ConfigError` that names what there is, or what more to say.
    """
    named = _NAMED.fullmatch(text)
    if named:
        found = _named(named[1], named[2], known)
    elif _PREFIX.fullmatch(text):
        found = [one for one in known.releases if one.digest.hex.startswith(text.removeprefix("sha256:"))]
    else:
        raise ConfigError(f"{text!r} is no reference to a release: write {FORMS}")
    if not found:
        raise ConfigError(f"no release is called {text!r}: {_advice(named[1] if named else '', known)}")
    if len({one.digest for one in found}) > 1:
        raise ConfigError(f"{text!r} means more than one release: {_shown(found)}: {_way_out(found)}")
    return max(found, key=lambda one: (one.published, one.sequence))


def _named(pipeline: str, which: str, known: Listing) -> list[ReleaseInfo]:
    """The releases of a pipeline by number, by channel or by tag, in this order: pushing refuses ambiguous tags."""
    mine = [one for one in known.releases if one.pipeline == pipeline]
    if which.isdecimal():
        return [one for one in mine if one.sequence == int(which)]
    if which in known.offered:
        offered = known.offered[which].get(pipeline)
        return [offered] if offered else []
    return [one for one in mine if one.tag == which]


def _way_out(found: Sequence[ReleaseInfo]) -> str:
    several = len({one.channel for one in found}) == len(found)
    return "say which with --channel" if several else "say which by its number or by more digits of its digest"


def _advice(pipeline: str, known: Listing) -> str:
    if not known.releases:
        return "the record lists none yet"
    mine = [one for one in known.releases if one.pipeline == pipeline]
    if mine:
        return f"{pipeline} has {_shown(mine)}"
    pipelines = sorted({one.pipeline for one in known.releases})
    near = difflib.get_close_matches(pipeline, pipelines, 1)
    return f"did you mean pipeline {near[0]!r}?" if near else f"the record has {', '.join(pipelines)}; write {FORMS}"


def _shown(found: Sequence[ReleaseInfo]) -> str:
    newest = sorted(found, key=lambda one: (-one.published, one.channel, -one.sequence))
    texts = [f"{one.name}{f' ({one.tag})' if one.tag else ''} in {one.channel} {one.digest.short}" for one in newest]
    more = len(texts) - _SHOWN_MAX
    return ", ".join(texts[:_SHOWN_MAX]) + (f" and {more} more" if more > 0 else "")
