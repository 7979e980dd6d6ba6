"""A device makes its key once, and installs an answer whole or not at all."""

from __future__ import annotations

import stat
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from edge_agent.cli import main
from edge_agent.contract.enrolment import Answer, decode_answer, encode_answer
from edge_agent.contract.errors import ConfigError
from edge_agent.enrolment import install, request
from publisher.devices.authority import Authority, new_key, private_pem

NOW = 1_800_000_000.0
AUTHORITY = Authority.found("plant", new_key(), NOW)
CONFIG = """\
[device]
id = "d1"
fleet = "plant"
state = "/var/lib/edge-agent"

[broker]
url = "mqtts://broker.example"
ca = "ca.pem"
cert = "device.pem"
key = "device.key"

[channel.staging]
root = "staging.root.json"

[slot.meter]
channel = "staging"

[slot.meter.input]
source = "mqtt"
topic = "in"
columns = { x = "x" }

[slot.meter.output]
sink = "mqtt"
topic = "out"
"""


def answered(pem: bytes, device: str = "d1", **fields: object) -> bytes:
    """Return the answer to a request."""
    certificate = AUTHORITY.client(device, x509.load_pem_x509_csr(pem).public_key(), NOW)  # type: ignore[arg-type]
    files = {
        "ca.pem": AUTHORITY.pem,
        "device.pem": certificate,
        "staging.root.json": b"{}",
        "agent.toml": CONFIG.encode(),
    }
    answer = Answer(
        format=1, fleet="plant", device=device, note="", files={name: one.decode() for name, one in files.items()}
    )
    return encode_answer(msgspec.structs.replace(answer, **fields))


def keyed(answer: bytes, key: bytes) -> bytes:
    """Return an answer that brings a private key along."""
    found = decode_answer(answer)
    return encode_answer(msgspec.structs.replace(found, files={**found.files, "device.key": key.decode()}))


def everything(directory: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in directory.iterdir()}


def test_the_key_is_made_once_is_closed_to_others_and_signs_the_request(tmp_path: Path) -> None:
    first = request(tmp_path, "plant", "d1")
    key = (tmp_path / "device.key").read_bytes()
    second = request(tmp_path, "plant", "d1")
    assert (first.key_is_new, second.key_is_new) == (True, False)
    assert (tmp_path / "device.key").read_bytes() == key
    assert first.words == second.words
    assert stat.S_IMODE((tmp_path / "device.key").stat().st_mode) == 0o600
    asked = x509.load_pem_x509_csr(first.pem)
    assert asked.is_signature_valid
    assert asked.public_key() == load_pem_private_key(key, None).public_key()
    assert [one.value for one in asked.subject] == ["plant", "d1"]
    assert b"PRIVATE" not in first.pem


@pytest.mark.parametrize(("fleet", "device"), [("plant", "_publisher"), ("plant", "a/b"), ("", "d1"), ("#", "d1")])
def test_a_name_that_no_device_can_have_is_refused_before_a_key_is_made(
    fleet: str, device: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="name"):
        request(tmp_path, fleet, device)
    assert everything(tmp_path) == {}


def test_a_key_that_everybody_can_read_is_refused(tmp_path: Path) -> None:
    request(tmp_path, "plant", "d1")
    (tmp_path / "device.key").chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        request(tmp_path, "plant", "d1")


def test_an_answer_is_installed_and_installing_it_again_changes_nothing(tmp_path: Path) -> None:
    answer = answered(request(tmp_path, "plant", "d1").pem)
    config = tmp_path / "agent.toml"
    done = install(answer, config, state=tmp_path / "own state")
    assert sorted(done.written) == ["agent.toml", "ca.pem", "device.pem", "staging.root.json"]
    assert f'state = "{tmp_path}/own state"' in config.read_text()
    before = everything(tmp_path)
    again = install(answer, config, state=tmp_path / "own state")
    assert (again.written, sorted(again.kept)) == ([], sorted(done.written))
    assert everything(tmp_path) == before


def test_a_renewed_certificate_replaces_the_old_one_and_nothing_else(tmp_path: Path) -> None:
    pem = request(tmp_path, "plant", "d1").pem
    install(answered(pem), tmp_path / "agent.toml")
    old = (tmp_path / "device.pem").read_bytes()
    assert install(answered(pem), tmp_path / "agent.toml").written == ["device.pem"]
    assert (tmp_path / "device.pem.before").read_bytes() == old != (tmp_path / "device.pem").read_bytes()


Refusal = Callable[[Path], bytes]


def _stranger(place: Path) -> bytes:
    pem = request(place, "plant", "d1").pem
    other = Authority.found("plant", new_key(), NOW).pem.decode()
    files = decode_answer(answered(pem)).files
    return answered(pem, files={**files, "ca.pem": other})


def _climbing(place: Path) -> bytes:
    pem = request(place, "plant", "d1").pem
    return answered(pem, files={**decode_answer(answered(pem)).files, "../evil": "x"})


def _bad_toml(place: Path) -> bytes:
    pem = request(place, "plant", "d1").pem
    return answered(pem, files={**decode_answer(answered(pem)).files, "agent.toml": "= x"})


def _elsewhere(place: Path) -> bytes:
    request(place, "plant", "d1")
    (place / "other").mkdir()
    return answered(request(place / "other", "plant", "d1").pem)


def _foreign_key(place: Path) -> bytes:
    key = new_key()
    answer = answered(request(place, "plant", "d1").pem)
    return keyed(answer, private_pem(key))


REFUSED: dict[str, tuple[Refusal, str]] = {
    "for another device's key": (_elsewhere, "another key"),
    "for another id than its certificate": (
        lambda place: answered(
            request(place, "plant", "d1").pem,
            device="d2",
            files=decode_answer(answered(request(place, "plant", "d1").pem)).files,
        ),
        "its certificate for d1",
    ),
    "of a stranger's authority": (_stranger, "not issued by the fleet's authority"),
    "with a climbing name": (_climbing, "no place on a device"),
    "with a configuration that is none": (_bad_toml, "cannot be used"),
    "not an answer": (lambda place: b"\x00", "no answer to an enrolment"),
    "without a request": (
        lambda place: answered(request(place / "gone", "plant", "d1").pem),
        "belongs to the device that made the request",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_an_answer_is_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    make, words = REFUSED[name]
    answer = make(tmp_path)
    before = sorted(one.name for one in tmp_path.iterdir())
    with pytest.raises(ConfigError, match=words):
        install(answer, tmp_path / "agent.toml")
    assert sorted(one.name for one in tmp_path.iterdir()) == before


def test_a_key_in_the_answer_never_replaces_the_devices_own_unasked(tmp_path: Path) -> None:
    answer = _foreign_key(tmp_path)
    own = (tmp_path / "device.key").read_bytes()
    with pytest.raises(ConfigError, match=r"device\.key: there already, and different"):
        install(answer, tmp_path / "agent.toml")
    assert (tmp_path / "device.key").read_bytes() == own


def test_a_complete_answer_brings_its_key_closed_to_others(tmp_path: Path) -> None:
    pem = request(tmp_path / "there", "plant", "d1").pem
    answer = keyed(answered(pem), (tmp_path / "there" / "device.key").read_bytes())
    here = tmp_path / "here"
    here.mkdir()
    assert "device.key" in install(answer, here / "agent.toml").written
    assert stat.S_IMODE((here / "device.key").stat().st_mode) == 0o600


def test_a_configuration_that_differs_is_kept_or_replaced_only_when_told(tmp_path: Path) -> None:
    answer = answered(request(tmp_path, "plant", "d1").pem)
    config = tmp_path / "mine.toml"
    config.write_text("# mine\n")
    before = everything(tmp_path)
    with pytest.raises(ConfigError, match=r"mine\.toml: there already, and different.*--keep-config"):
        install(answer, config)
    assert everything(tmp_path) == before
    assert "mine.toml" in install(answer, config, keep_config=True).kept
    assert config.read_text() == "# mine\n"
    assert install(answer, config, force=True).written == ["mine.toml"]
    assert (tmp_path / "mine.toml.before").read_text() == "# mine\n"
    assert "agent.toml" not in everything(tmp_path), "the configuration has the name that the device gives it"


def test_another_authority_or_root_is_never_taken_unasked(tmp_path: Path) -> None:
    """Both are what the device trusts."""
    pem = request(tmp_path, "plant", "d1").pem
    install(answered(pem), tmp_path / "agent.toml")
    before = everything(tmp_path)
    files = decode_answer(answered(pem)).files
    with pytest.raises(ConfigError, match=r"staging\.root\.json: there already, and different"):
        install(answered(pem, files={**files, "staging.root.json": '{"other": 1}'}), tmp_path / "agent.toml")
    assert everything(tmp_path) == before


def run(*arguments: str) -> tuple[int, str]:
    done = CliRunner().invoke(main, ["enroll", *arguments])
    return done.exit_code, done.output


def test_the_command_asks_and_installs(tmp_path: Path) -> None:
    config, out = tmp_path / "etc" / "agent.toml", tmp_path / "request"
    code, said = run("--id", "d1", "--fleet", "plant", "--out", str(out), "--config", str(config))
    assert code == 0, said
    assert "device.key (new); it stays here" in said
    (tmp_path / "answer").write_bytes(answered(out.read_bytes()))
    code, said = run("--install", str(tmp_path / "answer"), "--config", str(config), "--state", str(tmp_path / "state"))
    assert code == 0, said
    assert f"Ready: `edge-agent run --config {config}`" in said


def test_the_command_says_what_is_missing_in_the_configuration(tmp_path: Path) -> None:
    config = tmp_path / "agent.toml"
    pem = request(tmp_path, "plant", "d1").pem
    files = decode_answer(answered(pem)).files
    without = CONFIG[: CONFIG.index("[slot.meter]")]
    (tmp_path / "answer").write_bytes(answered(pem, files={**files, "agent.toml": without}, note="a note"))
    code, said = run("--install", str(tmp_path / "answer"), "--config", str(config))
    assert code == 2
    assert "slot: missing" in said
    assert f"complete {config}" in said
    assert "a note" in said


@pytest.mark.parametrize(
    "arguments",
    [[], ["--id", "d1"], ["--install", "x", "--id", "d1"], ["--id", "d", "--fleet", "f", "--out", "o", "--force"]],
)
def test_the_command_refuses_half_a_question(arguments: list[str]) -> None:
    code, said = run(*arguments)
    assert (code, said.count("edge-agent: ")) == (2, 1)
