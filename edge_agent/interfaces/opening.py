"""Opens the local interfaces that the configuration asks for, and nothing when it asks for none.

Whatever they need is imported here and then: an agent without them pays nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from edge_agent.config import Config
from edge_agent.interfaces.address import parse_address
from edge_agent.runtime.lane import Lane

if TYPE_CHECKING:
    from edge_agent.interfaces.front import Room
    from edge_agent.interfaces.listener import Listener
    from edge_agent.interfaces.metrics import AskStatus

__all__ = ["Interfaces"]


class Interfaces:
    """What local programs may ask of `lanes`. Raises `ConfigError` when the address is taken.

    `ask` has the agent's status composed for who asks, see `edge_agent.interfaces.metrics`.
    """

    def __init__(self, config: Config, lanes: Mapping[str, Lane], ask: AskStatus) -> None:
        self._config = config
        wanted = config.interfaces.inference or config.interfaces.metrics
        self._listener = _listener(config, lanes, ask) if wanted else None

    def start(self) -> None:
        """Begin to answer."""
        if self._listener is not None:
            self._listener.start()

    def close(self) -> None:
        """Stop answering."""
        if self._listener is not None:
            self._listener.close()

    @property
    def status(self) -> dict[str, Any]:
        """Where they listen and what is asked there, for people; empty when nothing is."""
        if self._listener is None:
            return {}
        wanted = self._config.interfaces
        return {"listen": self._listener.place, "inference": wanted.inference, "metrics": wanted.metrics}


def _listener(config: Config, lanes: Mapping[str, Lane], ask: AskStatus) -> Listener:
    from edge_agent.interfaces.front import Front
    from edge_agent.interfaces.listener import Listener

    answered: Counter[int] = Counter()
    rooms: dict[str, Room] = {}
    if config.interfaces.inference:
        from edge_agent.interfaces.inference import Inference
        from edge_agent.runtime.inference import InferenceSource

        rooms["v2"] = Inference(
            {name: lane.source for name, lane in lanes.items() if isinstance(lane.source, InferenceSource)}
        ).handle
    if config.interfaces.metrics:
        from edge_agent.interfaces.metrics import Metrics

        rooms["metrics"] = Metrics(lanes, ask, answered).handle

    def told(status: int) -> None:
        answered[status] += 1

    address = parse_address(config.interfaces.listen, config.path.parent)
    return Listener(address, Front(rooms, told).handle, refused=told)
