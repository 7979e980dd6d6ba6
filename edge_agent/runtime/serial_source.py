"""Samples from a serial port, through pyserial: lines of text or binary records.

A port that is unplugged is opened again when it returns. The first line may be the rest of one and is no fault.
"""

from __future__ import annotations

import os
from typing import Any

from edge_agent.config.plugs import SerialInput
from edge_agent.runtime.fields import line_decoder
from edge_agent.runtime.framing import Lines, Records
from edge_agent.runtime.stream_source import Stream, StreamSource

__all__ = ["serial_source"]


class _Port(Stream):
    """The port. It is taken for this process alone."""

    def __init__(self, config: SerialInput) -> None:
        self.name = str(config.port)
        self._config = config
        self._serial: Any = None

    def open(self) -> int:
        import serial

        config = self._config
        try:
            self._serial = serial.Serial(
                str(config.port),
                config.baud,
                bytesize=config.bits,
                parity=config.parity,
                stopbits=config.stop,
                timeout=0,
                exclusive=True,
            )
        except serial.SerialException as error:
            # What pyserial says repeats the port and the words of the number; some errors have no number.
            raise OSError(error.errno, os.strerror(error.errno) if error.errno else str(error)) from None
        except ValueError as error:
            raise OSError(0, str(error)) from None
        descriptor: int = self._serial.fileno()
        os.set_blocking(descriptor, False)
        return descriptor

    def shut(self) -> str:
        port, self._serial = self._serial, None
        try:
            port.close()
        except OSError as error:  # of a device that is gone; its descriptor is closed all the same
            return f"unplugged ({error.strerror or error})"
        return ""


def serial_source(config: SerialInput, *, start_sequence: int = 0, **options: Any) -> StreamSource:
    """Return the source of a slot; `options` are those of `StreamSource`."""
    if config.format == "struct":
        records = Records(config)
        return StreamSource(config, _Port(config), records, records.decode, start_sequence=start_sequence, **options)
    decode = line_decoder(config)
    return StreamSource(config, _Port(config), Lines(midway=True), decode, start_sequence=start_sequence, **options)
