"""The device's memory: one SQLite database (U1). Whatever is decided here survives a power cut or did not happen.

It joins what became of releases (`ledger`), what was signed and accepted (`accepted`) and what operators want
(`wishes`). Blobs are files elsewhere. It decides nothing: every method is one query or one transaction.
"""

from __future__ import annotations

from edge_agent.update.accepted import Accepted, Known, Refusal, Trust
from edge_agent.update.database import StoreCorrupt
from edge_agent.update.ledger import STUCK, JournalRow, Ledger, Quarantined
from edge_agent.update.wishes import EVERY_SLOT, Hold, Pin, Wish, Wishes

__all__ = [
    "EVERY_SLOT",
    "STUCK",
    "Hold",
    "JournalRow",
    "Known",
    "Pin",
    "Quarantined",
    "Refusal",
    "Store",
    "StoreCorrupt",
    "Trust",
    "Wish",
]


class Store(Ledger, Accepted, Wishes):
    """One open database. Not shared between threads; other processes may open it too, SQLite's locks sort them out."""
