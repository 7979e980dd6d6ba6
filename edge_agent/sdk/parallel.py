"""Branches: several chains that see the same rows, and the named rule that joins what they give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from edge_agent.contract.manifest import check_name
from edge_agent.sdk.chain import Chain, private
from edge_agent.sdk.container import Container, Member
from edge_agent.sdk.frame import Frame, Values
from edge_agent.sdk.join import JOINS, Part, join_parts

__all__ = ["Parallel"]


class Parallel(Container):
    """Run several branches on the same rows and join what they give, by a rule named in `join`.

    `branches` maps names to a stage or a list of stages; an empty list passes the rows through. Rules:

    - `columns`: side by side. Columns keep their names; where two branches use one name, all become `branch.column`.
    - `first`: of each sample, the row of the first branch that has one.
    - `mean`, `median`, `sum`, `min`, `max`: cell by cell, of numbers in the same shape.
    - `vote`: cell by cell the most frequent value; of equals, the earliest branch's.
    - `dict`: each row a dict of branch name to that branch's row.

    Rows belong together by their sequence numbers. But for `first`, a row that one branch does not give in the same
    batch is dropped: windows in several branches meet where their hops do.

    Raises `TypeError` or `ValueError` for unknown rules and for what cannot be a branch.
    """

    stem = "parallel"

    def __init__(
        self, branches: Mapping[str, Member | Sequence[Member | tuple[str, Member]]], *, join: str = "columns"
    ) -> None:
        if not isinstance(branches, Mapping):
            raise TypeError(f"Parallel takes a dict of branch name to stages, not {branches!r}")
        if not branches:
            raise ValueError("Parallel needs at least one branch: {'name': [stage, …], …}")
        if join not in JOINS:
            raise ValueError(f"Parallel: there is no rule {join!r} to join by: {', '.join(JOINS)}")
        self.join = join
        self._chains = {}
        taken: set[str] = set()
        for name, given in branches.items():
            chain = Chain([given] if not isinstance(given, list | tuple) else given)
            chain.adopt(taken)
            self._chains[check_name("branch", name)] = chain
        members = [one for _, one in self.every_stage()]
        if len({id(one) for one in members}) < len(members):
            raise ValueError("Parallel: a stage stands in two branches and would mix up its state: make two")

    def __repr__(self) -> str:
        inside = ", ".join(f"{name}: {[one for _, one in chain.stages]!r}" for name, chain in self._chains.items())
        return f"<Parallel {inside}; join {self.join}>"

    def advance(self, values: Values, times: Frame) -> tuple[Values, Frame]:
        """Return the joined rows and their times. Raises `ValueError` for rows that cannot be joined."""
        parts = []
        for name, chain in self._chains.items():
            rows, when = chain.advance(private(values), times)
            parts.append(Part(name, when if rows is when.values else when.successor(rows)))
        joined = join_parts(self.join, parts)
        return joined.values, joined

    def parameters(self) -> dict[str, Any]:
        """Return the rule, and the order of the branches: a manifest sorts them."""
        return {"join": self.join, "order": list(self._chains)}

    @classmethod
    def assembled(cls, name: str, branches: Mapping[str, list[Any]], parameters: Mapping[str, Any]) -> Parallel:
        """Return the `Parallel` of a manifest. Raises `ValueError` if its order does not name each branch once."""
        order = parameters.get("order")
        if not isinstance(order, list) or sorted(map(str, order)) != sorted(branches):
            raise ValueError(f"the order of branches {order!r} does not name each of {', '.join(branches)} once")
        return cls({one: branches[one] for one in order}, join=parameters.get("join", "columns"))
