from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.contract.errors import ConfigError
from edge_agent.transport.address import Address, tls_context

GOOD = {
    "mqtt://broker": ("broker", 1883, False, "broker:1883"),
    "mqtts://broker": ("broker", 8883, True, "broker:8883"),
    "mqtt://10.0.0.1:1234/": ("10.0.0.1", 1234, False, "10.0.0.1:1234"),
    "mqtt://[::1]:77": ("::1", 77, False, "[::1]:77"),
}
BAD = {
    "http://broker": "mqtt://",
    "broker:1883": "mqtt://",
    "mqtt://": "no usable host",
    "mqtt://broker:0": "no usable host",
    "mqtt://broker:99999": "cannot be read",
    "mqtt://broker:x": "cannot be read",
    "mqtt://broker/path": "goes on after the port",
    "mqtt://broker?x=1": "goes on after the port",
    f"mqtt://{'a' * 64}.example": "no usable host",
}


@pytest.mark.parametrize("url", GOOD)
def test_a_broker_url_gives_host_port_and_tls(url: str) -> None:
    address = Address.parse(url)
    assert (address.host, address.port, address.tls, str(address)) == GOOD[url]


@pytest.mark.parametrize("url", BAD)
def test_a_url_that_cannot_work_is_refused_at_once(url: str) -> None:
    with pytest.raises(ConfigError, match=BAD[url]):
        Address.parse(url)


def test_secrets_in_a_url_are_refused_and_not_repeated() -> None:
    with pytest.raises(ConfigError, match="password_file") as caught:
        Address.parse("mqtt://user:hunter2@broker")
    assert "hunter2" not in str(caught.value)


def test_tls_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    junk = tmp_path / "junk.pem"
    junk.write_text("no certificate")
    for ca in (tmp_path / "absent.pem", junk):
        with pytest.raises(ConfigError, match=ca.name):
            tls_context(ca=ca)
    with pytest.raises(ConfigError, match=r"junk\.pem"):
        tls_context(cert=junk)
    with pytest.raises(ConfigError, match="without its certificate"):
        tls_context(key=junk)
    assert tls_context().check_hostname
