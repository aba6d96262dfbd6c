"""The append-only record of what one client's data has paid: `Ledger`, and what its bytes say."""

from private_distdd.privacy.ledger.book import Ledger
from private_distdd.privacy.ledger.entries import Budget, Charge, Entry, Open, Pin, Recovered, Sealed
from private_distdd.privacy.ledger.history import History, parse

__all__ = ["Budget", "Charge", "Entry", "History", "Ledger", "Open", "Pin", "Recovered", "Sealed", "parse"]
