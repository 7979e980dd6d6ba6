"""Samples from a Modbus device's registers, over TCP or a serial line (RTU), through pymodbus.

Registers that lie side by side are read with one request. A device that answers with an exception is there and says
no: that is counted, and the next read is tried. A sample is never made of a part of the answers.
"""

from __future__ import annotations

import importlib
import logging
from itertools import groupby
from typing import Any, NamedTuple

from edge_agent.config.plugs import ModbusInput
from edge_agent.runtime.outside import OutsideSource, Unreachable, polling
from edge_agent.runtime.samples import BadPayload

__all__ = ["REFUSED", "modbus_source", "requests"]

REFUSED = "refused by the device"
REGISTERS_MAX = 120  # the protocol allows 125
BITS_MAX = 1_920  # 2,000
WORDS = {"int16": 1, "uint16": 1, "int32": 2, "uint32": 2, "float32": 2, "int64": 4, "uint64": 4, "float64": 4}


class Register(NamedTuple):
    """Where one value lies. `kind` is empty for a bit."""

    table: str
    address: int
    words: int
    kind: str
    path: str


class Request(NamedTuple):
    """One read: `length` registers or bits of `table` from `address` on, and the values in it."""

    table: str
    address: int
    length: int
    registers: tuple[Register, ...]


def requests(paths: list[str]) -> list[Request]:
    """Return the reads that bring the values at `paths`, as few as side-by-side registers allow."""
    found = []
    for table, group in groupby(sorted(set(map(_register, paths))), lambda one: one.table):
        limit = REGISTERS_MAX if table in ("holding", "input") else BITS_MAX
        run: list[Register] = []
        for register in group:
            end = max((one.address + one.words for one in run), default=register.address)
            if run and (register.address > end or register.address + register.words - run[0].address > limit):
                found.append(_request(run))
                run = []
            run.append(register)
        found.append(_request(run))
    return found


def _register(path: str) -> Register:
    table, address, kind = (path + "::").split(":")[:3]
    if table in ("coil", "discrete"):
        return Register(table, int(address), 1, "", path)
    kind = kind or "uint16"
    return Register(table, int(address), WORDS[kind], kind, path)


def _request(run: list[Register]) -> Request:
    end = max(one.address + one.words for one in run)
    return Request(run[0].table, run[0].address, end - run[0].address, tuple(run))


class _Device:
    """A connection to one unit. Raises `Unreachable` when there is none."""

    def __init__(self, config: ModbusInput) -> None:
        client: Any = importlib.import_module("pymodbus.client")
        # What it logs of every read that fails is told by the source.
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
        self._lost: Any = importlib.import_module("pymodbus.exceptions").ModbusException
        self._config = config
        self._requests = requests([column.path for column in config.columns.values()])
        options: dict[str, Any] = {"timeout": config.timeout_seconds, "retries": 0}
        if config.device is None:
            self._client: Any = client.ModbusTcpClient(config.host, port=config.port, **options)
        else:
            line = {"baudrate": config.baud, "parity": config.parity, "stopbits": config.stop}
            self._client = client.ModbusSerialClient(str(config.device), **line, **options)
        if not self._client.connect():
            raise Unreachable("cannot be connected to")
        reading = ("read_coils", "read_discrete_inputs", "read_holding_registers", "read_input_registers")
        self._read = {table: getattr(self._client, name) for table, name in zip(_TABLES, reading, strict=True)}

    def read(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for request in self._requests:
            found |= self._values(request)
        return found

    def close(self) -> None:
        self._client.close()

    def _values(self, request: Request) -> dict[str, Any]:
        try:
            answer = self._read[request.table](request.address, count=request.length, device_id=self._config.unit)
        except self._lost as error:
            raise Unreachable(str(error)) from None
        if answer.isError():
            code = getattr(answer, "exception_code", "?")
            raise BadPayload(REFUSED, f"{request.table} {request.address}, {request.length} long: exception {code}")
        return {one.path: self._value(answer, request, one) for one in request.registers}

    def _value(self, answer: Any, request: Request, register: Register) -> Any:
        at = register.address - request.address
        if not register.kind:
            return bool(answer.bits[at])
        kind = self._client.DATATYPE[register.kind.upper()]
        words = answer.registers[at : at + register.words]
        if len(words) < register.words:
            raise BadPayload(REFUSED, f"{register.path}: the answer is too short")
        return self._client.convert_from_registers(words, kind, word_order=self._config.words)


_TABLES = ("coil", "discrete", "holding", "input")


def modbus_source(config: ModbusInput, **options: Any) -> OutsideSource:
    """Return the source of a slot; `options` are those of `OutsideSource`."""
    name = str(config.device) if config.device is not None else f"{config.host}:{config.port}"
    return OutsideSource(config, f"{name} unit {config.unit}", polling(config, lambda: _Device(config)), **options)
