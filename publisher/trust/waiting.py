"""The one way in which a change of a channel ends that is neither done nor refused. Imports nothing heavy."""

from __future__ import annotations

from edge_agent.contract.errors import AuthorError

__all__ = ["Waiting"]


class Waiting(AuthorError):
    """A change is kept and not published: it waits for signatures of others. The message says whose."""
