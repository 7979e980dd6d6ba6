"""Samples about the machine itself, through psutil: processor, memory, disks, network, temperature."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from edge_agent.config.plugs import MetricsInput
from edge_agent.runtime.decode import MISSING
from edge_agent.runtime.outside import OutsideSource, polling
from edge_agent.runtime.samples import BadPayload

__all__ = ["metrics_source"]


class _Machine:
    """What psutil says; `close` has nothing to do."""

    def __init__(self, config: MetricsInput) -> None:
        import psutil

        self._paths = [column.path for column in config.columns.values()]
        self._psutil: Any = psutil
        psutil.cpu_percent()  # the first answer covers no time and is always 0

    def read(self) -> dict[str, float]:
        return {path: self._value(path) for path in self._paths}

    def close(self) -> None:
        pass

    def _value(self, path: str) -> float:
        name, _, argument = path.partition(":")
        try:
            return float(_METRICS[name](self._psutil, argument))
        except (AttributeError, LookupError, NotImplementedError):  # how psutil says that this machine has none
            raise BadPayload(MISSING, f"this machine has no {path}") from None
        except OSError as error:
            raise BadPayload(MISSING, f"{path}: {error.strerror or error}") from None


def _temperature(psutil: Any, chip: str) -> float:
    """The hottest sensor of a chip, or of all; `LookupError` without one."""
    chips = psutil.sensors_temperatures()
    found = [one.current for name, sensors in chips.items() if chip in ("", name) for one in sensors]
    if not found:
        raise LookupError(chip)
    return float(max(found))


_Metric = Callable[[Any, str], float]
_METRICS: dict[str, _Metric] = {
    "cpu_percent": lambda psutil, _: psutil.cpu_percent(),
    "cpu_frequency_mhz": lambda psutil, _: psutil.cpu_freq().current,
    "load_1": lambda psutil, _: psutil.getloadavg()[0],
    "load_5": lambda psutil, _: psutil.getloadavg()[1],
    "load_15": lambda psutil, _: psutil.getloadavg()[2],
    "processes": lambda psutil, _: len(psutil.pids()),
    "uptime_seconds": lambda psutil, _: time.time() - psutil.boot_time(),
    "memory_percent": lambda psutil, _: psutil.virtual_memory().percent,
    "memory_available_mb": lambda psutil, _: psutil.virtual_memory().available / 2**20,
    "swap_percent": lambda psutil, _: psutil.swap_memory().percent,
    "disk_percent": lambda psutil, path: psutil.disk_usage(path or "/").percent,
    "disk_free_mb": lambda psutil, path: psutil.disk_usage(path or "/").free / 2**20,
    "disk_read_bytes": lambda psutil, _: psutil.disk_io_counters().read_bytes,
    "disk_write_bytes": lambda psutil, _: psutil.disk_io_counters().write_bytes,
    "network_sent_bytes": lambda psutil, _: psutil.net_io_counters().bytes_sent,
    "network_received_bytes": lambda psutil, _: psutil.net_io_counters().bytes_recv,
    "temperature": _temperature,
}


def metrics_source(config: MetricsInput, **options: Any) -> OutsideSource:
    """Return the source of a slot; `options` are those of `OutsideSource`."""
    return OutsideSource(config, "this machine", polling(config, lambda: _Machine(config)), **options)
