"""What suits each source without a word about it, and each fault in one clear line."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge_agent.config import load
from edge_agent.config.overflow import policy, queue_rows, spool_bytes
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.overflow import DroppingSource
from edge_agent.runtime.sources import open_source
from tests.edge_agent.config.test_plugs import INPUTS, write

MQTT = 'source = "mqtt"\ntopic = "in"\nbroker = "mqtt://127.0.0.1:1"\ncolumns = {x = "x"}'
MERGE = 'source = "merge"\n[slot.s.input.part.a]\n' + MQTT
DROPS = {"serial", "record", "modbus", "opcua", "sysfs", "metrics"}


@pytest.mark.parametrize("kind", [*INPUTS, "mqtt"])
def test_sources_that_nobody_can_hold_back_drop_the_oldest_and_the_others_block(tmp_path: Path, kind: str) -> None:
    config = load(write(tmp_path, INPUTS.get(kind, MQTT)))
    section = config.slot["s"].input
    assert policy(section) == ("drop_oldest" if kind in DROPS else "block")
    assert (queue_rows(section), spool_bytes(section)) == (4096, 64_000_000)
    source = open_source(config, "s")
    assert isinstance(source, DroppingSource) == (kind in DROPS)
    source.close()


FAULTS = [
    (MQTT, 'overflow = "drop"', "input.overflow: expected one of block, drop_oldest, spool, got the string 'drop'"),
    (MQTT, "queue_rows = 100", 'input.queue_rows: needs overflow = "drop_oldest" or "spool"'),
    (MQTT, 'overflow = "spool"\nqueue_rows = 3', "input.queue_rows: 3 must be 16 to 1000000 samples"),
    (MQTT, 'overflow = "drop_oldest"\nqueue_rows = 2000000', "input.queue_rows: 2000000 must be"),
    (MQTT, 'overflow = "drop_oldest"\nspool_mb = 5', 'input.spool_mb: needs overflow = "spool"'),
    (MQTT, 'overflow = "spool"\nspool_mb = 0.5', "input.spool_mb: 0.5 must be 1 to"),
    (MQTT, 'overflow = "spool"\nspool_mb = nan', "input.spool_mb: nan must be 1 to"),
    (MQTT, 'overflow = "spool"\nspool_mb = 1e6', "input.spool_mb: all spools together are 1e+06 MB, and the disk of"),
    (INPUTS["jsonl"], 'overflow = "spool"', "input.overflow: 'spool' does not suit: a file waits until it is read;"),
    (MERGE, 'overflow = "spool"', "input.part.a.overflow: belongs to the whole"),
    (
        'source = "merge"\noverflow = "drop_oldest"\n[slot.s.input.part.a]\n' + INPUTS["jsonl"],
        "",
        "input.overflow: 'drop_oldest' does not suit: a file is among the parts",
    ),
]


@pytest.mark.parametrize(("source", "more", "words"), FAULTS, ids=[words[6:40] for *_, words in FAULTS])
def test_every_fault_of_a_policy_is_one_clear_line(tmp_path: Path, source: str, more: str, words: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, f"{source}\n{more}"))
    assert [line for line in str(caught.value).splitlines() if words in line], str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
