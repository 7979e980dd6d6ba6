"""Samples replayed from a file of JSON lines, by the rules of a CSV replay; a line decodes as an MQTT payload does."""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from edge_agent.config.plugs import JsonlInput
from edge_agent.contract.errors import ConfigError
from edge_agent.runtime.csv_source import CsvSource
from edge_agent.runtime.csv_table import Row
from edge_agent.runtime.decode import Layout
from edge_agent.runtime.framing import LINE_BYTES_MAX, TOO_LONG
from edge_agent.runtime.samples import BadPayload

__all__ = ["JsonlSource"]


class JsonlSource(CsvSource):
    """The replay of one slot; see `CsvSource`. Raises `ConfigError` when the file cannot be read."""

    def __init__(self, config: JsonlInput, *, start_sequence: int = 0) -> None:
        super().__init__(config, start_sequence=start_sequence, table=_JsonlTable(config))


class _JsonlTable:
    """The file as rows; empty lines are left out."""

    def __init__(self, config: JsonlInput) -> None:
        self.path = config.path
        self.numbered = bool(config.sequence)
        self._layout = Layout(config.columns, config.timestamp, config.sequence)
        self._rate_hz = config.rate_hz
        self.columns, self.dtypes = self._layout.columns, self._layout.dtypes
        self._open().close()

    def rows(self) -> Iterator[Row | BadPayload]:
        """Yield every row of the file from the top. Raises `ConfigError` when it cannot be read any more."""
        with self._open() as file:
            number = 0
            while line := self._line(file):
                if isinstance(line, bytes) and not line.strip():
                    continue
                yield self._row(number, line)
                number += 1

    def _row(self, number: int, line: bytes | BadPayload) -> Row | BadPayload:
        try:
            if isinstance(line, BadPayload):
                raise line
            sequence, timestamp, values = self._layout.decode(line)
        except BadPayload as bad:
            return BadPayload(bad.kind, f"line {number + 1}: {bad}")
        time = round(number * 1e9 / self._rate_hz) if timestamp is None else timestamp
        return number if sequence is None else sequence, time, list(values)

    def _line(self, file: BinaryIO) -> bytes | BadPayload:
        try:
            line = file.readline(LINE_BYTES_MAX)
            if len(line) < LINE_BYTES_MAX or line.endswith(b"\n"):
                return line
            while (rest := file.readline(LINE_BYTES_MAX)) and not rest.endswith(b"\n"):
                pass
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None
        return BadPayload(TOO_LONG, f"longer than {LINE_BYTES_MAX} bytes")

    def _open(self) -> BinaryIO:
        try:
            return self.path.open("rb")
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be read: {error.strerror}") from None
