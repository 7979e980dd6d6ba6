"""Keys on disk: encrypted, closed to others, never overwritten, never half-written."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import time
from pathlib import Path

import pytest

from edge_agent.contract.errors import AuthorError
from publisher.trust.keys import KeyStore

pytestmark = pytest.mark.usefixtures("keys_at_full_cost")


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    keys = KeyStore(tmp_path / "deep" / "keys")
    keys.create(["staging-release"], "correct horse")
    return keys


def test_a_key_signs_what_its_public_half_verifies(store: KeyStore) -> None:
    signer = store.signer("staging-release", "correct horse")
    signature = signer.sign(b"manifest")
    signer.public_key.verify_signature(signature, b"manifest")
    assert store.signer("staging-release", "correct horse").public_key == signer.public_key


def test_files_and_directory_are_closed_to_others(store: KeyStore) -> None:
    assert stat.S_IMODE(store.directory.stat().st_mode) == 0o700
    assert [path.name for path in store.directory.iterdir()] == ["staging-release.pem"]
    assert stat.S_IMODE((store.directory / "staging-release.pem").stat().st_mode) == 0o600


def test_a_key_is_standard_pkcs8_that_openssl_opens(store: KeyStore) -> None:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed")
    path = store.directory / "staging-release.pem"
    assert path.read_text().startswith("-----BEGIN ENCRYPTED PRIVATE KEY-----\n")

    def opens(passphrase: str) -> bool:
        command = [openssl, "pkey", "-in", str(path), "-passin", f"pass:{passphrase}", "-noout"]
        return subprocess.run(command, capture_output=True).returncode == 0

    assert opens("correct horse")
    assert not opens("wrong horse")


def test_guessing_a_passphrase_costs_time_but_six_keys_cost_less_than_a_second(tmp_path: Path) -> None:
    keys = KeyStore(tmp_path / "keys")
    begun = time.process_time()
    keys.create([f"staging-{number}" for number in range(6)], "x")
    spent = time.process_time() - begun
    assert 0.05 < spent < 1.0


def test_a_wrong_passphrase_is_one_clear_line(store: KeyStore) -> None:
    with pytest.raises(AuthorError, match="wrong passphrase for key staging-release") as caught:
        store.signer("staging-release", "wrong horse")
    assert "\n" not in str(caught.value)
    assert "horse" not in str(caught.value)


@pytest.mark.parametrize("passphrase", ["ä ö ü", "🌱", "x" * 1000, " "])
def test_any_passphrase_works(tmp_path: Path, passphrase: str) -> None:
    keys = KeyStore(tmp_path / "keys")
    keys.create(["a"], passphrase)
    keys.signer("a", passphrase)
    with pytest.raises(AuthorError):
        keys.signer("a", passphrase + "x")


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AuthorError, match="empty passphrase"):
        KeyStore(tmp_path / "keys").create(["a"], "")
    assert not (tmp_path / "keys").exists()


def test_an_existing_key_is_never_overwritten_and_nothing_else_is_made(store: KeyStore) -> None:
    before = (store.directory / "staging-release.pem").read_bytes()
    with pytest.raises(AuthorError, match="never overwritten"):
        store.create(["staging-rollout", "staging-release"], "other")
    assert (store.directory / "staging-release.pem").read_bytes() == before
    assert not store.has("staging-rollout")


def test_a_key_made_at_the_same_moment_is_not_overwritten(store: KeyStore, monkeypatch: pytest.MonkeyPatch) -> None:
    before = (store.directory / "staging-release.pem").read_bytes()
    monkeypatch.setattr(Path, "exists", lambda path: False)
    with pytest.raises(AuthorError, match="someone else"):
        store.create(["staging-release"], "correct horse")
    monkeypatch.undo()
    assert (store.directory / "staging-release.pem").read_bytes() == before
    assert [path.name for path in store.directory.iterdir()] == ["staging-release.pem"]


def test_a_missing_key_says_what_this_workstation_may_not_do(store: KeyStore) -> None:
    assert not store.has("production-release")
    with pytest.raises(AuthorError, match="no key production-release"):
        store.signer("production-release", "x")


def test_a_key_that_others_can_read_is_refused(store: KeyStore) -> None:
    path = store.directory / "staging-release.pem"
    path.chmod(0o640)
    with pytest.raises(AuthorError, match="chmod 600"):
        store.signer("staging-release", "correct horse")


def test_a_directory_open_to_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "keys").chmod(0o755)
    with pytest.raises(AuthorError, match="chmod 700"):
        KeyStore(tmp_path / "keys").create(["a"], "x")
    assert list((tmp_path / "keys").iterdir()) == []


def test_a_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuthorError, match="cannot be made"):
        KeyStore(tmp_path / "file" / "keys").create(["a"], "x")


def test_a_full_disk_leaves_no_key_and_no_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = KeyStore(tmp_path / "keys")

    def full(handle: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AuthorError, match="No space left"):
        keys.create(["a"], "x")
    assert list(keys.directory.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"-----BEGIN", bytes(100)])
def test_a_damaged_key_is_one_clear_line(store: KeyStore, content: bytes) -> None:
    path = store.directory / "staging-release.pem"
    path.write_bytes(content)
    with pytest.raises(AuthorError, match="damaged"):
        store.signer("staging-release", "correct horse")


def test_a_key_that_is_a_directory_is_one_clear_line(store: KeyStore) -> None:
    (store.directory / "odd.pem").mkdir(mode=0o700)
    with pytest.raises(AuthorError, match="cannot be read"):
        store.signer("odd", "x")


@pytest.mark.parametrize("name", ["../evil", "a/b", "", ".hidden"])
def test_a_key_name_cannot_leave_the_directory(store: KeyStore, name: str) -> None:
    with pytest.raises(ValueError, match="key name"):
        store.signer(name, "x")


def test_the_first_pin_of_a_channel_stays(store: KeyStore) -> None:
    assert store.pinned("staging") is None
    assert store.pin("staging", b"first") == b"first"
    assert store.pin("staging", b"second") == b"first"
    assert store.pinned("staging") == b"first"
