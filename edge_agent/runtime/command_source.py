"""Samples from the lines that a command prints. A command that ends is started again, after growing waits."""

from __future__ import annotations

from typing import Any

from edge_agent.config.plugs import CommandInput
from edge_agent.runtime.fields import line_decoder
from edge_agent.runtime.framing import Lines
from edge_agent.runtime.programs import Program
from edge_agent.runtime.stream_source import Stream, StreamSource

__all__ = ["command_source"]


class _Output(Stream):
    def __init__(self, config: CommandInput) -> None:
        self._program = Program(config.command)
        self.name = self._program.name
        self.tend, self.end = self._program.tend, self._program.end  # type: ignore[method-assign]

    def open(self) -> int:
        return self._program.start(reads=False)

    def shut(self) -> str:
        return self._program.stop()


def command_source(config: CommandInput, *, start_sequence: int = 0, **options: Any) -> StreamSource:
    """Return the source of a slot; `options` are those of `StreamSource`."""
    decode = line_decoder(config)
    return StreamSource(config, _Output(config), Lines(), decode, start_sequence=start_sequence, **options)
