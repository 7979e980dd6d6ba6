"""What is wrong with `[interfaces]`, and with slots that answer requests where nobody can ask.

Each function yields (key, words) for `edge_agent.config`.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

from edge_agent.config.plugs import AnswerOutput, InferenceInput
from edge_agent.config.sections import Interfaces, Slot
from edge_agent.interfaces.address import parse_address

__all__ = ["asked_faults", "interface_faults"]


def interface_faults(section: Interfaces, directory: Path) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the section of a configuration in `directory`."""
    try:
        parse_address(section.listen, directory)
    except ValueError as error:
        yield "listen", str(error)
    if (section.inference or section.metrics) and importlib.util.find_spec("h11") is None:
        yield "listen", "needs the package 'h11', which is not installed: pip install 'fieldcast[serve]'"


def asked_faults(slot: Slot, interfaces: Interfaces) -> Iterator[tuple[str, str]]:
    """Yield what does not fit between a slot and `[interfaces]`."""
    asked = isinstance(slot.input, InferenceInput)
    if asked and not interfaces.inference:
        yield "input.source", "nobody can ask: write [interfaces] with inference = true"
    if isinstance(slot.output, AnswerOutput) and not asked:
        yield "output.sink", "'answer' is for source = \"inference\", where somebody asks"
