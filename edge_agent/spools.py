"""Where each slot's input spool lies, and what of an earlier run's samples in it is still to be given."""

from __future__ import annotations

import hashlib
import logging

from edge_agent.config import Config
from edge_agent.config.overflow import policy, spool_bytes
from edge_agent.contract.digest import encode_json
from edge_agent.runtime.input_spool import InputSpool
from edge_agent.runtime.trail import Trail

__all__ = ["DIRECTORY", "open_spool"]

log = logging.getLogger(__name__)
DIRECTORY = "inputs"


def open_spool(config: Config, name: str, trail: Trail | None) -> InputSpool | None:
    """Return the spool of slot `name`, None without need of one: other policies work off what an earlier one left.

    Samples in it were acknowledged, so they outlive changes of topic, port or policy, but not of columns or units.
    """
    section, path = config.slot[name].input, config.device.state / DIRECTORY / name
    spools = policy(section) == "spool"
    if not spools and not path.is_dir():
        return None
    told = {key: [column.dtype, column.unit] for key, column in section.columns.items()}
    layout = hashlib.sha256(encode_json([list(told), told])).digest()
    after = trail.newest_at if trail is not None else None
    spool = InputSpool(path, layout, tuple(told), bytes_max=spool_bytes(section), after=after)
    if not spools and not spool.rows:
        try:
            spool.clear()
        except OSError as error:
            log.warning("an empty input spool cannot be removed path=%s reason=%s", path, error)
        spool.close()
        return None
    if not spools:
        log.warning("samples of an earlier overflow policy are worked off slot=%s rows=%d", name, spool.rows)
    return spool
