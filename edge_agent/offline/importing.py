"""Takes a channel's newest state from a directory instead of from a broker: same trust, same admission (T4, U5).

The envelope is verified first, against what this device has accepted; then the blobs that its slots may need are
copied, each verified by size and sha256 before it counts; then the envelope is left to the agent as a request, and goes
the way of one from the broker. So a stick that is cut short, altered or pulled out changes nothing, and doing it again
goes on where it ended. Without an agent, what was brought is taken up when one starts.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from edge_agent import wiring
from edge_agent.cli.command import DATABASE
from edge_agent.config import Config
from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import Blame, ConfigError, ReasonCode, StoreError, UpdateRejected
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.verification import Verified, open_envelope
from edge_agent.doorbell import ring
from edge_agent.offline.outcome import Outcome, offered, outcomes
from edge_agent.offline.stick import Stick
from edge_agent.transport.landing import disk, landed, settle
from edge_agent.update.admission import SPACE_RESERVE_BYTES
from edge_agent.update.imports import ACCEPTED, IMPORT, WAITING_MAX, argument_of, envelope_of
from edge_agent.update.intake import question
from edge_agent.update.recovery import open_store
from edge_agent.update.store import Store
from edge_agent.update.trust import verify

__all__ = ["Imported", "take"]

ANSWER_SECONDS = 120.0
TURN_SECONDS = 0.2
KEPT = "kept: the agent is not running and takes it when it starts"


class Imported(msgspec.Struct, frozen=True, kw_only=True):
    """What was taken from where. `answer` is the agent's; `left_out` are slots whose pipeline is not in the export.

    `expires` is when the metadata ends, seconds UTC. `outcomes` has a slot each, if they were waited for.
    """

    channel: str
    answer: str
    accepted: bool
    copied: int
    copied_bytes: int
    present: int
    expires: float
    left_out: list[str]
    outcomes: list[Outcome] = []


def take(
    config: Config,
    directory: Path,
    *,
    wait_seconds: float = 0.0,
    told: Callable[[str], None] = lambda words: None,
) -> Imported:
    """Import the export in `directory`; with `wait_seconds`, wait until what it offers has ended on every slot.

    `told` hears of what takes long. Raises `UpdateRejected` for what is not acceptable here (older, foreign, altered,
    incomplete), `TransportError` when the medium cannot be read, `StoreError` for the device's own disk, `ConfigError`
    when there is no such directory. Blocks.
    """
    state = config.device.state
    with Stick(directory) as stick, _opened(config) as store, _alone(state):
        envelope = stick.envelope()
        channel = _channel_of(config, envelope, stick)
        root = wiring.roots(config)[channel]
        verified = _verified(config, store, channel, root, envelope)
        slots, left_out = _slots(config, channel, verified, stick)
        refs = _needed(slots, verified)
        blobs = state / "blobs"
        missing = [ref for ref in refs if not _is_here(blobs, ref)]
        _require_room(state, missing)
        for number, ref in enumerate(missing, 1):
            told(f"copying {number} of {len(missing)}, {ref.size:,} bytes")
            _copy(stick, ref, state)
        before, since = _newest(store), time.time()
        answer = _ask(store, config, channel, envelope, ANSWER_SECONDS)
        imported = Imported(
            channel=channel,
            answer=answer,
            accepted=answer.startswith(ACCEPTED),
            copied=len(missing),
            copied_bytes=sum(ref.size for ref in missing),
            present=len(refs) - len(missing),
            expires=verified.expires_at,
            left_out=left_out,
        )
        if not wait_seconds or not (imported.accepted or answer == KEPT):
            return imported
        told(f"waiting up to {wait_seconds:g} s for {', '.join(slots) or 'nothing'}")
        found = outcomes(
            store,
            slots,
            verified,
            channel,
            envelope=envelope,
            before=before,
            since=since,
            deadline=time.monotonic() + wait_seconds,
        )
    return msgspec.structs.replace(imported, outcomes=found)


# --- this device -----------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _opened(config: Config) -> Iterator[Store]:
    """Open the device's store, the very first time as an agent would; leave every file to the agent's user."""
    state = config.device.state
    if not (state / DATABASE).exists():
        with contextlib.closing(wiring.lock_state(state)):
            open_store(state / DATABASE, state / "releases", time.time()).close()
    try:
        with contextlib.closing(Store(state / DATABASE, create=False)) as store:
            yield store
    finally:
        _hand_over(state)


def _hand_over(state: Path) -> None:
    """Root's new files become the agent's: it could neither lock nor remove them otherwise."""
    owner = state.stat()
    if os.geteuid() != 0 or owner.st_uid == 0:
        return
    for path in [*state.iterdir(), *(state / "blobs").glob("*"), *(state / "blobs").glob("*/*")]:
        if path.lstat().st_uid == 0:
            os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    """Keep a second import out, and clear what one that was killed has left."""
    with disk(state):
        (state / "import").mkdir(mode=0o700, exist_ok=True)
        with (state / "import.lock").open("a") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"another import is under way on {state}: wait for it") from None
            shutil.rmtree(state / "import")
            (state / "import").mkdir(mode=0o700)
            try:
                yield
            finally:
                shutil.rmtree(state / "import", ignore_errors=True)


# --- trust -----------------------------------------------------------------------------------------------------------


def _channel_of(config: Config, envelope: bytes, stick: Stick) -> str:
    """Return the channel that an envelope claims to be of. Raises `UpdateRejected` for one not followed here."""
    opened, device = open_envelope(envelope), config.device
    if opened.fleet == device.fleet and opened.channel in config.channel:
        return opened.channel
    words = (
        f"{stick.directory} holds channel {opened.channel[:80]!r} of fleet {opened.fleet[:80]!r}; this device is of "
        f"fleet {device.fleet} and follows {', '.join(config.channel)}: export one of those"
    )
    raise UpdateRejected.one(ReasonCode.WRONG_CHANNEL, words, blame=Blame.ENVIRONMENT)


def _verified(config: Config, store: Store, channel: str, root: bytes, envelope: bytes) -> Verified:
    """Ask the verifier what the agent will ask it again, and also whether it is older than what waits for the agent."""
    request = question(store, config.device.fleet, channel, root, envelope, time.time())
    waiting = [one for one in store.requests() if one.kind == IMPORT]
    if len(waiting) >= WAITING_MAX:
        raise StoreError(f"{len(waiting)} imports wait for the agent already: start it first")
    for one in waiting:
        if one.slot == channel:
            request = msgspec.structs.replace(request, accepted=envelope_of(one) or request.accepted)
    return verify(request, lock=config.device.state / "verifier.lock")


def _slots(config: Config, channel: str, verified: Verified, stick: Stick) -> tuple[list[str], list[str]]:
    """Return the slots that the channel offers something for, and those of them whose blobs were not exported."""
    pipelines = {one.pipeline for one in verified.rollouts}
    named = [name for name, slot in config.slot.items() if slot.channel == channel and name in pipelines]
    index = stick.index()
    left_out = [name for name in named if index is not None and name not in index.pipelines]
    return [name for name in named if name not in left_out], left_out


def _needed(slots: Iterable[str], verified: Verified) -> list[BlobRef]:
    """Return every blob of what the slots are offered, each once."""
    infos = [info for slot in slots for info in offered(slot, verified)]
    manifests = [_manifest(verified.manifests[info.digest]) for info in infos if info.digest in verified.manifests]
    return list({ref.digest: ref for one in manifests if one is not None for ref in one.blobs()}.values())


def _manifest(data: bytes) -> Manifest | None:
    """Return a manifest; None for one that this program cannot read, which admission will refuse by name."""
    try:
        return parse_manifest(data)
    except UpdateRejected:
        return None


# --- blobs -----------------------------------------------------------------------------------------------------------


def _path(blobs: Path, digest: Digest) -> Path:
    return blobs / digest.hex[:2] / digest.hex


def _is_here(blobs: Path, ref: BlobRef) -> bool:
    with disk(blobs):
        return landed(_path(blobs, ref.digest), ref)


def _require_room(state: Path, missing: list[BlobRef]) -> None:
    """Raise `StoreError` when the blobs do not fit. A blob needs its size twice: as copied and as laid out."""
    needed, free = 2 * sum(ref.size for ref in missing), shutil.disk_usage(state).free
    if missing and needed + SPACE_RESERVE_BYTES > free:
        raise StoreError(
            f"{state} has {free:,} bytes free, this needs {needed:,} and a reserve of {SPACE_RESERVE_BYTES:,}: "
            "free some space (`edge-agent gc --all`) and import again"
        )


def _copy(stick: Stick, ref: BlobRef, state: Path) -> None:
    """Copy one blob; it has its name only when it is whole, right and durable."""
    found, size = hashlib.sha256(), 0
    temporary = state / "import" / ref.digest.hex
    # Reading raises what blames the medium, writing `OSError`, which blames this device's disk.
    with disk(state / "blobs"):
        with temporary.open("wb") as file:
            for piece in stick.blob(ref):
                found.update(piece)
                size += len(piece)
                file.write(piece)
            file.flush()
            os.fsync(file.fileno())
        if size != ref.size:
            what = "more than" if size > ref.size else f"{size:,} bytes, not"
            raise stick.refusal(ref, ReasonCode.SIZE, f"has {what} the {ref.size:,} that are signed: export again")
        if found.hexdigest() != ref.digest.hex:
            raise stick.refusal(ref, ReasonCode.CONTENT, "does not have the sha256 that is signed: export again")
        settle(temporary, _path(state / "blobs", ref.digest))


# --- the agent -------------------------------------------------------------------------------------------------------


def _ask(store: Store, config: Config, channel: str, envelope: bytes, seconds: float) -> str:
    """Leave the envelope to the agent and return its answer; without an agent it is kept."""
    with store.transaction():
        number = store.ask(IMPORT, channel, time.time(), argument_of(envelope))
    deadline = time.monotonic() + seconds
    while ring(config.device.state) is not None:
        answer = store.answer_of(number)
        if answer is not None:
            return answer
        if time.monotonic() > deadline:
            return f"asked; the agent has not answered within {seconds:.0f} s, see `edge-agent status`"
        time.sleep(TURN_SECONDS)
    return store.answer_of(number) or KEPT


def _newest(store: Store) -> int:
    return max((one.id for one in store.deployments(limit=1)), default=0)
