"""The front door: which part of the agent a local request is for, and whether a browser sent it for somebody else.

Whoever reaches the listener may ask: nothing is authenticated. A page that a browser on this machine shows must not ask
in its place, so `Host` and `Origin`, where there are any, must be this machine (no DNS rebinding, no cross-site posts).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

from edge_agent.interfaces.address import is_local
from edge_agent.interfaces.http import Request, Response, error
from edge_agent.interfaces.listener import Answer, Reply, Wait

__all__ = ["Front", "Room"]

TARGET_CHARACTERS_MAX = 2048

Room: TypeAlias = Callable[[Request, list[str], Reply], "Wait | None"]
"""Answers requests below one first part of the path; it gets the other parts."""


class Front:
    """Shows requests to `rooms`, by the first part of their path. `told` hears the status of every answer."""

    def __init__(self, rooms: Mapping[str, Room], told: Callable[[int], None]) -> None:
        self._rooms, self._told = rooms, told

    def handle(self, request: Request, reply: Reply) -> Wait | None:
        """Answer a request, now or later."""

        def counted(answer: Answer) -> None:
            reply(lambda: self._counted(answer() if callable(answer) else answer))

        if (words := _foreign(request.headers)) != "":
            counted(error(403, words))
            return None
        path = [unquote(part) for part in request.target.partition("?")[0].strip("/").split("/")]
        room = self._rooms.get(path[0]) if len(request.target) <= TARGET_CHARACTERS_MAX else None
        if room is None:
            known = ", ".join(f"/{name}" for name in self._rooms)
            counted(error(404, f"there is no {request.target[:80]!r}: ask {known}"))
            return None
        wait = room(request, path[1:], counted)
        return wait and Wait(wait.seconds, lambda: self._counted(wait.end()))

    def _counted(self, response: Response) -> Response:
        self._told(response.status)
        return response


def _foreign(headers: Mapping[str, str]) -> str:
    """Return why a request is not this machine's own, in words, empty if it is."""
    host, origin = headers.get("host", ""), headers.get("origin", "")
    try:
        if host and not is_local(urlsplit(f"//{host}").hostname or ""):
            return f"this is not {host[:80]!r}: ask for 127.0.0.1, [::1] or localhost"
        if origin and not is_local(urlsplit(origin).hostname or ""):
            return f"pages of {origin[:80]!r} may not ask here"
    except ValueError:
        return "host or origin is no address"
    return ""
