"""Attacks with releases that are signed: right keys, wrong place."""

from __future__ import annotations

from edge_agent.contract.compatibility import Profile
from edge_agent.contract.digest import BlobRef
from edge_agent.contract.errors import ReasonCode
from edge_agent.contract.manifest import InputSpec, Manifest, OutputSpec, Stage
from edge_agent.update.admission import admit

HERE = Profile(
    python="3.11.2", machine="x86_64", tags=["cp311-cp311-manylinux_2_17_x86_64", "py3-none-any"], distributions={}
)


def test_wrong_machine_a_release_for_another_processor_is_refused() -> None:
    """A bundle of compiled code for arm64 is never fetched by an x86-64 device, and the reason says why."""
    for tag in ("cp311-cp311-manylinux_2_17_aarch64", "py3-none-any"):
        stage = Stage(name="a", target="pkg.mod:Cls", fingerprint="f", bundle=BlobRef.of(b"x"), tag=tag)
        manifest = Manifest(
            format=1, pipeline="p", stages=[stage], input=InputSpec(columns=[]), output=OutputSpec(columns=["y"])
        )
        found = admit(manifest, HERE, slot="p", columns=(), units={}, dtypes={}, tunables=())
        codes = {reason.code for reason in found}
        assert codes <= {ReasonCode.INTERPRETER, ReasonCode.MACHINE}
        assert bool(codes) == ("aarch64" in tag)
