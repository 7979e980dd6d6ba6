"""Samples from small files of a kernel tree, such as hwmon and IIO: one number or text a file.

Some drivers measure while they are read, which takes up to seconds, so a thread does it. Chips are found by name at
every read: after a replug another number stands for the same chip.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edge_agent.config.plugs import SysfsInput
from edge_agent.runtime.outside import OutsideSource, Unreachable, polling

__all__ = ["sysfs_source"]

VALUE_BYTES_MAX = 4_096
CHIPS_MAX = 1_000


class _Tree:
    """The tree below `root`; `close` has nothing to do."""

    def __init__(self, config: SysfsInput) -> None:
        self._root = config.root
        self._paths = [column.path for column in config.columns.values()]
        self._chips: dict[str, Path] = {}

    def read(self) -> dict[str, str]:
        return {path: self._value(path) for path in self._paths}

    def close(self) -> None:
        self._chips.clear()

    def _value(self, path: str) -> str:
        chip, _, name = path.partition("/")
        for known in (True, False):
            found = self._chips.get(chip) if known else self._find(chip)
            if found is None:
                continue
            try:
                with (found / name).open("rb") as file:
                    return file.read(VALUE_BYTES_MAX).decode("utf-8", "replace").strip()
            except OSError as error:
                self._chips.pop(chip, None)
                if not known:
                    raise Unreachable(f"{found / name}: {error.strerror}") from None
        raise Unreachable(f"{self._root}: has no chip '{chip}'")

    def _find(self, chip: str) -> Path | None:
        """The directory of that name, or the one whose file `name` says it."""
        places = [self._root / chip]
        if not places[0].is_dir():
            try:
                places = sorted(self._root.iterdir())[:CHIPS_MAX]
            except OSError as error:
                raise Unreachable(f"{self._root}: {error.strerror}") from None
            places = [place for place in places if _name(place) == chip]
        if places:
            self._chips[chip] = places[0]
            return places[0]
        return None


def _name(place: Path) -> str:
    try:
        with (place / "name").open("rb") as file:
            return file.read(VALUE_BYTES_MAX).decode("utf-8", "replace").strip()
    except OSError:
        return ""  # no chip, or one that is just going


def sysfs_source(config: SysfsInput, **options: Any) -> OutsideSource:
    """Return the source of a slot; `options` are those of `OutsideSource`."""
    return OutsideSource(config, str(config.root), polling(config, lambda: _Tree(config)), texts=True, **options)
