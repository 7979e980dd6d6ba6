"""What was signed and accepted here: envelopes, the manifests they brought, floors, and the last refusals."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from edge_agent.contract.digest import Digest, decode_json, encode_json
from edge_agent.contract.errors import Reason, StoreError
from edge_agent.contract.messages import ReleaseInfo, Rollout
from edge_agent.contract.verification import Operator
from edge_agent.update.database import Database
from edge_agent.update.desired import below_floor

__all__ = ["Accepted", "Known", "Refusal", "Trust"]


class Known(msgspec.Struct, frozen=True):
    """The verified part of an envelope that decisions go by."""

    releases: list[ReleaseInfo] = []
    rollouts: list[Rollout] = []
    operators: list[Operator] = []


class Trust(msgspec.Struct, frozen=True, kw_only=True):
    """An accepted envelope, what its verification gave (`Known` as JSON) and when it expires, seconds UTC."""

    channel: str
    envelope: bytes
    verified: bytes
    accepted: float
    expires: float

    @property
    def known(self) -> Known:
        """What the key holders signed."""
        return decode_json(self.verified, Known)


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """The last envelope of a channel that was refused, and why."""

    channel: str
    at: float
    digest: Digest
    reasons: tuple[Reason, ...]


class Accepted(Database):
    """Envelopes, manifests, refusals and floors."""

    def trust(self, channel: str) -> Trust | None:
        """Return the accepted envelope of a channel."""
        for row in self._rows("select * from trust where channel = ?", [channel]):
            return msgspec.convert({name: row[name] for name in Trust.__struct_fields__}, Trust)
        return None

    def channels(self) -> list[str]:
        """Return the channels of which something was accepted."""
        return [row["channel"] for row in self._rows("select channel from trust order by channel")]

    def save_trust(self, trust: Trust, manifests: dict[Digest, bytes]) -> None:
        """Accept an envelope and keep the manifests it brought; clears the channel's last refusal."""
        self._db.table("trust").upsert(msgspec.to_builtins(trust, builtin_types=(bytes,)), pk="channel")
        for digest, data in manifests.items():
            self.keep_manifest(digest, data)
        self._db.table("refusal").delete_where("channel = ?", [trust.channel])

    def keep_manifest(self, digest: Digest, data: bytes) -> None:
        """Keep a manifest's bytes."""
        self._db.table("manifest").insert({"digest": str(digest), "data": data}, ignore=True)

    def manifest(self, digest: Digest) -> bytes:
        """Return a manifest's bytes. Raises `StoreError` when it was never accepted here."""
        for row in self._rows("select data from manifest where digest = ?", [str(digest)]):
            return bytes(row["data"])
        raise StoreError(f"no manifest {digest} in the store")

    def trim_manifests(self) -> None:
        """Drop the manifests that no deployment, pin or accepted envelope names."""
        trusted = [trust.known for channel in self.channels() if (trust := self.trust(channel)) is not None]
        named = {str(info.digest) for known in trusted for info in known.releases}
        used = "select digest from deployment union select digest from pin"
        for row in self._rows(f"select digest from manifest where digest not in ({used})"):
            if row["digest"] not in named:
                self._db.execute("delete from manifest where digest = ?", [row["digest"]])

    def security_floors(self, slot: str) -> dict[str, int]:
        """Return, by channel, the sequence below which the slot's pipeline goes back to no release."""
        rows = self._rows("select key, value from fact where key like 'security/%'")
        found = [(row["key"].split("/"), int(row["value"])) for row in rows]
        return {channel: value for (_, channel, pipeline), value in found if pipeline == slot}

    def barred(self, slot: str, channel: str) -> dict[Digest, int]:
        """Return the listed manifests below the slot's security floor, each with its lowest listed sequence."""
        trust = self.trust(channel)
        releases = trust.known.releases if trust is not None else []
        return below_floor(slot, releases, self.security_floors(slot).get(channel, 0))

    def raise_security_floors(self, releases: Sequence[ReleaseInfo]) -> None:
        """Remember the floors that releases were signed with; they never fall."""
        for info in releases:
            if info.security_floor:
                self.raise_fact(f"security/{info.channel}/{info.pipeline}", info.security_floor)

    def refusal(self, channel: str) -> Refusal | None:
        """Return the last refused envelope of a channel, if none was accepted since."""
        for row in self._rows("select * from refusal where channel = ?", [channel]):
            reasons = decode_json(row["reasons"], tuple[Reason, ...])
            return Refusal(channel=channel, at=row["at"], digest=Digest(row["digest"]), reasons=reasons)
        return None

    def save_refusal(self, refusal: Refusal) -> None:
        """Remember why an envelope was refused."""
        row = {
            "channel": refusal.channel,
            "at": refusal.at,
            "digest": str(refusal.digest),
            "reasons": encode_json(refusal.reasons).decode(),
        }
        self._db.table("refusal").upsert(row, pk="channel")

    def floors(self, channel: str) -> list[tuple[str, str, int]]:
        """Return (role, key set, lowest acceptable version) of a channel."""
        rows = self._rows("select * from floor where channel = ? order by role, keyset", [channel])
        return [(row["role"], row["keyset"], row["version"]) for row in rows]

    def raise_floors(self, channel: str, floors: Sequence[tuple[str, str, int]]) -> None:
        """Raise floors; one never falls within a key set (T5)."""
        for role, keyset, version in floors:
            self._db.execute(
                "insert into floor (channel, role, keyset, version) values (?, ?, ?, ?) "
                "on conflict (channel, role, keyset) do update set version = max(version, excluded.version)",
                [channel, role, keyset, version],
            )
