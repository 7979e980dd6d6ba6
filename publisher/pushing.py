"""Pushes a pipeline into a channel, or offers an older release again, and (if asked) waits for what the devices say.

Decides the order: what is cheap to find wrong comes first (home, channel, words, target, passphrase), then packing and
preflight, then the broker; only when all of them have answered is anything signed.
"""

from __future__ import annotations

import functools
import subprocess
import time
from pathlib import Path
from typing import Any

from edge_agent.contract.digest import Digest
from edge_agent.contract.errors import TransportError
from edge_agent.contract.manifest import parse_manifest
from edge_agent.contract.messages import ReleaseInfo
from edge_agent.sdk.pipeline import Pipeline
from publisher.config import load_home
from publisher.desk import Desk, Ending, Progress, PushResult, Wait, check_words, ending_of, timed
from publisher.packaging import pack
from publisher.packing.project import find_pipeline
from publisher.preflight import preflight
from publisher.retreat import condemned, earlier, only_pipeline
from publisher.trust.marks import Marks
from publisher.trust.passphrase import Passphrase, ask

__all__ = ["Ending", "PushResult", "ending_of", "push", "rollback"]


def push(
    target: Pipeline | str | None = None,
    *,
    channel: str,
    tag: str = "",
    message: str = "",
    wait: bool = False,
    dry_run: bool = False,
    require_portable: bool = False,
    security_floor: bool = False,
    retry: bool = False,
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Push a pipeline (an instance, or TARGET as on the command line) into a channel.

    With `wait`, return when every device that follows the channel has committed, refused or rolled back, at least
    `devices` of them, or after `timeout_seconds`. `require_portable` refuses classes that only this Python could run.
    With `security_floor` no device goes back below this release any more; with `retry` it is tried also where the same
    bytes failed before.
    Raises `ConfigError`, `AuthorError`, `TransportError`, or
    `UpdateRejected` when a device would refuse what was signed.
    """
    started = time.monotonic()
    desk = Desk.at(load_home(home), channel, progress)
    check_words(desk.home, tag, message)
    pipeline = find_pipeline(target)
    secret = "" if dry_run else desk.unlock(passphrase)
    progress("packing")
    package = pack(pipeline, require_portable=require_portable)
    progress("preflight in a clean process")
    seen = preflight(package, pipeline=pipeline)
    result = PushResult(
        ending=Ending.DRY_RUN,
        channel=channel,
        pipeline=package.manifest.pipeline,
        digest=Digest.of(package.data),
        preflight=seen.words,
        warnings=[*package.warnings, *seen.warnings],
    )
    if not dry_run:
        publish = functools.partial(
            desk.channel.publish,
            package.data,
            pipeline=package.manifest.pipeline,
            tag=tag,
            message=message,
            marks=Marks(security_floor=security_floor, retry=retry),
            **desk.hand(secret),
            **_commit(),
        )
        awaited = Wait(devices, timeout_seconds) if wait else None
        result = desk.offer(result, package.manifest, package.blobs.values(), publish, awaited)
    return timed(result, started)


def rollback(
    pipeline: str | None = None,
    *,
    channel: str,
    sequence: int | None = None,
    message: str = "",
    wait: bool = False,
    devices: int = 0,
    timeout_seconds: float = 120.0,
    home: str | Path | None = None,
    passphrase: Passphrase = ask,
    progress: Progress = lambda words: None,
) -> PushResult:
    """Offer an older release of a pipeline again, under a new sequence number (the fleet's rollback).

    Without `sequence`: the newest release from before the bytes offered now first came that no device reports as
    failed; done again, it goes further back. Raises as `push` does.
    """
    started = time.monotonic()
    desk = Desk.at(load_home(home), channel, progress)
    check_words(desk.home, "", message)
    name = pipeline or only_pipeline(desk.channel)
    mind = functools.partial(_require_still_offered, desk, desk.offered(name))
    back_to = earlier(desk.channel, name, sequence, functools.partial(condemned, desk.home))
    republish = functools.partial(
        desk.channel.republish, back_to.sequence, pipeline=name, message=message, **desk.hand(desk.unlock(passphrase))
    )
    progress(f"back to {back_to.name}")
    manifest = parse_manifest(desk.channel.manifest(back_to.digest))
    contents = [desk.channel.record.get_blob(ref) for ref in manifest.blobs()]
    result = PushResult(ending=Ending.PUBLISHED, channel=channel, pipeline=name, digest=back_to.digest)
    awaited = Wait(devices, timeout_seconds) if wait else None
    return timed(desk.offer(result, manifest, contents, republish, awaited, on_conflict=mind), started)


def _require_still_offered(desk: Desk, decided_from: ReleaseInfo | None) -> None:
    """A rollback must not undo what it has never seen, such as the fix that somebody pushed at the same time."""
    now = desk.offered(decided_from.pipeline) if decided_from is not None else None
    if now != decided_from and now is not None:
        raise TransportError(
            f"{now.name} by {now.signer or 'someone unnamed'} was published meanwhile and nothing was rolled back: "
            "look at `publisher history`, then run it again"
        )


def _commit() -> dict[str, Any]:
    """Return the git commit of the working directory and whether it has uncommitted changes; empty outside one."""
    try:
        head, changes = (
            subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True).stdout.strip()
            for arguments in (["rev-parse", "HEAD"], ["status", "--porcelain"])
        )
    except (OSError, subprocess.SubprocessError):
        return {}
    return {"commit": head, "dirty": bool(changes)}
