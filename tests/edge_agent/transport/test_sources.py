"""`[blobs]` in the device's configuration: which sources, in which order, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent import wiring
from edge_agent.config import load
from edge_agent.contract.errors import ConfigError

CONFIG = """
[device]
id = "d"
fleet = "f"
state = "state"
[broker]
url = "mqtt://127.0.0.1"
[channel.staging]
root = "root.json"
[slot.s]
channel = "staging"
input = {{ source = "mqtt", topic = "t", columns = {{ x = "x" }} }}
output = {{ sink = "mqtt", topic = "r" }}
{blobs}
"""


def loaded(directory: Path, blobs: str = "") -> object:
    path = directory / "agent.toml"
    path.write_text(CONFIG.format(blobs=blobs))
    return load(path, check_files=False)


def test_without_a_section_blobs_come_from_the_broker(tmp_path: Path) -> None:
    blobs = loaded(tmp_path).blobs  # type: ignore[attr-defined]
    assert (blobs.sources, blobs.bytes_per_second, blobs.deltas, blobs.ca) == (["mqtt"], 0, True, None)


def test_sources_keep_their_order(tmp_path: Path) -> None:
    sources = 'sources = ["https://a.example/f", "mqtt", "s3://bucket/f", "file:///mnt"]'
    lines = f'[blobs]\n{sources}\nca = "ca.pem"\ndeltas = false'
    config = loaded(tmp_path, lines)
    assert config.blobs.ca == tmp_path / "ca.pem"  # type: ignore[attr-defined]
    client = wiring.control_client(config, lambda *_: None, lambda *_: None)  # type: ignore[arg-type]
    fetcher, hear = wiring.fetcher(config, client)  # type: ignore[arg-type]
    (first, *_) = fetcher._every
    names = [source.name for source in first._sources]
    assert names == ["https://a.example/f", "mqtt", "s3://bucket/f", "file:///mnt"]
    assert first._hints is None
    assert not hear("some/topic", b"x", False)


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        ("sources = []", "name each source once"),
        ('sources = ["mqtt", "mqtt"]', "name each source once"),
        ('sources = ["ftp://host/x"]', "must be mqtt, or start with file://"),
        ('sources = ["/srv/mirror"]', "must be mqtt, or start with file://"),
        ('sources = ["https://user:secret@host/x"]', "must not hold credentials"),
        ('sources = ["https://"]', "must be the root of a mirror"),
        ('sources = ["https://host/x?y=1"]', "must be the root of a mirror"),
        ('sources = ["https://[host"]', "is not a URL"),
        ("bytes_per_second = -1", "must be positive"),
        ("bytes_per_second = nan", "must be positive"),
        ('source = "mqtt"', "did you mean 'sources'"),
    ],
)
def test_a_source_that_cannot_be_is_named(tmp_path: Path, lines: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        loaded(tmp_path, f"[blobs]\n{lines}")
    assert words in str(caught.value)
    assert "secret" not in str(caught.value)
