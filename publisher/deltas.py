"""Deltas: what turns a blob that devices have into the one they shall get (M6).

It decides which blobs belong together (same pipeline, same stage, same role), makes the patch with the older one as
zstd *prefix* (a mere dictionary finds nothing in it), and keeps only what is clearly smaller than the compressed whole.
Nothing here is signed: a device checks what comes out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator

import msgspec

from edge_agent.contract.digest import BlobRef, Digest
from edge_agent.contract.errors import AuthorError, StoreError
from edge_agent.contract.manifest import Manifest, parse_manifest
from edge_agent.contract.messages import WAYS_MAX
from edge_agent.transport.patch import WINDOW_LOG_MAX
from edge_agent.transport.zstd import CompressionParameter, ZstdDict, compress
from publisher.trust.repository import Channel

__all__ = ["Delta", "bases", "deltas", "make", "pairs"]

# A hint and a chunk's header travel with every delta; below this nothing is gained by one.
OVERHEAD_BYTES = 256
BYTES_MIN = 1024
SHARE_MAX = 0.6
BASES_MAX = 8
# What making deltas may cost a push: a gigabyte takes some ten seconds.
WORK_BYTES_MAX = 1 << 30
_SMALL_BYTES = 2 * 1024 * 1024
_LEVEL_SMALL, _LEVEL = 19, 3


class Delta(msgspec.Struct, frozen=True, kw_only=True):
    """The bytes that make `target` of `base`."""

    target: BlobRef
    base: Digest
    data: bytes


def make(old: bytes, new: bytes) -> bytes | None:
    """Return the delta from `old` to `new`, None where the compressed whole does nearly as well."""
    total = len(old) + len(new)
    if len(new) < BYTES_MIN or not old or total > 1 << WINDOW_LOG_MAX:
        return None
    patch = compress(new, options=_options(total), zstd_dict=ZstdDict(old, is_raw=True).as_prefix)
    if len(patch) + OVERHEAD_BYTES > SHARE_MAX * len(new):
        return None
    whole = len(compress(new, level=_LEVEL))
    return patch if len(patch) + OVERHEAD_BYTES <= SHARE_MAX * whole else None


def _options(total: int) -> dict[int, int]:
    parameter = CompressionParameter
    window: dict[int, int] = {parameter.window_log: min(WINDOW_LOG_MAX, max(17, total.bit_length()))}
    if total <= _SMALL_BYTES:
        return {parameter.compression_level: _LEVEL_SMALL, **window}
    return {
        parameter.compression_level: _LEVEL,
        **window,
        parameter.enable_long_distance_matching: 1,
        parameter.ldm_hash_log: 24,
        parameter.ldm_min_match: 16,
        parameter.ldm_hash_rate_log: 2,
    }


def pairs(old: Manifest, new: Manifest) -> Iterator[tuple[BlobRef, BlobRef]]:
    """Yield (old blob, new blob) for every blob of `new` that `old` has another one in place of."""
    known = dict(_roles(old))
    there = {ref.digest for ref in old.blobs()}
    seen = set()
    for role, ref in _roles(new):
        base = known.get(role)
        if base is not None and ref.digest not in there and (base.digest, ref.digest) not in seen:
            seen.add((base.digest, ref.digest))
            yield base, ref


def _roles(manifest: Manifest) -> Iterator[tuple[tuple[str, str], BlobRef]]:
    for stage in manifest.every_stage():
        if stage.bundle is not None:
            yield (stage.name, "bundle"), stage.bundle
        if stage.state is not None:
            yield (stage.name, "state"), stage.state
        for name, model in sorted(stage.models.items()):
            yield (stage.name, f"model {name}"), model.blob
            for path, ref in sorted(model.beside.items()):
                yield (stage.name, f"model {name} {path}"), ref
    if manifest.self_test is not None:
        yield ("", "self-test"), manifest.self_test


def bases(channel: Channel, pipeline: str, reported: Iterable[str]) -> list[Manifest]:
    """Return the manifests that devices run, most frequent first, at most `BASES_MAX`.

    `reported` are the manifest digests that devices say they run, one for each device and as they came (nobody vouches
    for them: what the channel does not list is left out). What the channel offers now comes behind.
    """
    wanted = [digest for digest, _ in Counter(reported).most_common(4 * BASES_MAX)]
    current = channel.current().get(pipeline)
    if current is not None:
        rollout, info = current
        listed = {one.sequence: str(one.digest) for one in channel.releases() if one.pipeline == pipeline}
        wanted += [str(info.digest), *([listed[rollout.stable]] if rollout.stable in listed else [])]
    found: dict[str, Manifest] = {}
    for digest in wanted:
        if digest not in found and len(found) < BASES_MAX:
            try:
                manifest = parse_manifest(channel.manifest(Digest(digest)))
            except (AuthorError, ValueError):
                continue
            if manifest.pipeline == pipeline:
                found[digest] = manifest
    return list(found.values())


def deltas(manifest: Manifest, olds: Iterable[Manifest], read: Callable[[BlobRef], bytes]) -> list[Delta]:
    """Return the deltas worth sending, from what `olds` have to what `manifest` needs; `read` gives a blob's bytes."""
    found: list[Delta] = []
    done: set[tuple[Digest, Digest]] = set()
    ways: Counter[Digest] = Counter()
    work = 0
    for old in olds:
        for base, target in pairs(old, manifest):
            if (base.digest, target.digest) in done or ways[target.digest] >= WAYS_MAX:
                continue
            done.add((base.digest, target.digest))
            work += base.size + target.size
            if work > WORK_BYTES_MAX:
                return found
            try:
                data = make(read(base), read(target))
            except StoreError:
                continue  # the record has lost the older one; devices fetch the whole
            if data is not None:
                found.append(Delta(target=target, base=base.digest, data=data))
                ways[target.digest] += 1
    return found
