"""A device's identity signs with the key of its certificate, and costs the agent next to nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from edge_agent import identity
from edge_agent.config import load
from edge_agent.contract.certificates import verify_signature
from edge_agent.contract.errors import ConfigError
from edge_agent.identity import DeviceIdentity
from tests.simulators.certificates import Certificates, Issued

CONFIG = """
[device]
id = "d1"
fleet = "plant"
[broker]
{broker}
[channel.staging]
root = "root.json"
[slot.meter]
channel = "staging"
[slot.meter.input]
source = "mqtt"
topic = "in"
columns = {{ x = "x" }}
[slot.meter.output]
sink = "mqtt"
topic = "out"
"""


@pytest.fixture(scope="module")
def issued(tmp_path_factory: pytest.TempPathFactory) -> Issued:
    return Certificates(tmp_path_factory.mktemp("ca")).issue("d1")


@pytest.fixture(params=["libcrypto", "cryptography"])
def either(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sign with the library that TLS uses, or, where that hides its symbols, with the package."""
    if request.param == "cryptography":
        monkeypatch.setattr(identity, "_library", lambda: None)
    else:
        assert identity._library() is not None, "this interpreter's libcrypto shows its symbols"


@pytest.mark.usefixtures("either")
def test_what_it_signs_verifies_with_its_certificate_and_nothing_else_does(issued: Issued, tmp_path: Path) -> None:
    device = DeviceIdentity.of_files(issued.cert, issued.key)
    for data in (b"", b"report", bytes(300_000)):
        signature = device.sign(data)
        verify_signature(device.certificate_pem, data, signature)
        with pytest.raises(ValueError, match="not made with"):
            verify_signature(device.certificate_pem, data + b"x", signature)
    other = Certificates(tmp_path).issue("d1")
    with pytest.raises(ValueError, match="not made with"):
        verify_signature(other.cert.read_bytes(), b"report", device.sign(b"report"))
    with pytest.raises(ValueError, match="not made with"):
        verify_signature(device.certificate_pem, b"report", b"no signature")


@pytest.mark.usefixtures("either")
@pytest.mark.parametrize("kind", ["ed25519", "p384", "encrypted", "certificate", "empty"])
def test_a_key_of_another_kind_is_refused_and_asks_nobody(kind: str, issued: Issued, tmp_path: Path) -> None:
    p256 = ec.generate_private_key(ec.SECP256R1())
    plain, sealed = NoEncryption(), BestAvailableEncryption(b"secret")
    contents = {
        "ed25519": ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain),
        "p384": ec.generate_private_key(ec.SECP384R1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, plain),
        "encrypted": p256.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, sealed),
        "certificate": issued.cert.read_bytes(),
        "empty": b"",
    }
    key = tmp_path / "device.key"
    key.write_bytes(contents[kind])
    with pytest.raises(ConfigError, match=r"device\.key is no unencrypted P-256 private key"):
        DeviceIdentity.of_files(issued.cert, key)


def test_it_is_the_brokers_certificate_and_key_and_none_without_them(issued: Issued, tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    (tmp_path / "root.json").write_text("{}")
    config.write_text(CONFIG.format(broker='url = "mqtt://127.0.0.1"'))
    assert DeviceIdentity.load(load(config)) is None
    tls = f'url = "mqtts://127.0.0.1"\nca = "{issued.ca}"\ncert = "{issued.cert}"\nkey = "{issued.key}"'
    config.write_text(CONFIG.format(broker=tls))
    found = DeviceIdentity.load(load(config))
    assert found is not None
    verify_signature(issued.cert.read_bytes(), b"x", found.sign(b"x"))


def test_a_file_that_is_gone_is_named(issued: Issued, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"gone\.key cannot be read"):
        DeviceIdentity.of_files(issued.cert, tmp_path / "gone.key")


def test_signing_in_the_agent_process_imports_no_cryptography(issued: Issued) -> None:
    """The package costs 8 to 10 MiB; the agent's TLS has a libcrypto already."""
    script = (
        "import sys; from pathlib import Path; import edge_agent.agent\n"
        "from edge_agent.identity import DeviceIdentity\n"
        "DeviceIdentity.of_files(Path(sys.argv[1]), Path(sys.argv[2])).sign(b'x')\n"
        "print([name for name in sys.modules if name.startswith('cryptography')])"
    )
    done = subprocess.run(
        [sys.executable, "-I", "-c", script, str(issued.cert), str(issued.key)],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.stdout == "[]\n", done.stderr
