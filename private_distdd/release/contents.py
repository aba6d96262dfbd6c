"""What a release holds: S or a classifier or both, the card, and the ledgers that its numbers follow from."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from private_distdd.errors import ReleaseError
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.grade import grade_of
from private_distdd.release.bill import as_number
from private_distdd.rounding import rounded_up
from private_distdd.synthetic.dataset import SyntheticDataset


@dataclass(frozen=True)
class Contents:
    """The parts of a release.

    Args:
        synthetic: S, or None where a network is all that was made.
        card: the record described in docs/verifying.md; plain JSON values.
        ledgers: each client's ledger file as it stood at the end, by client_id.
        folder: where it was loaded from; `verify` then also checks the page and the picture there.
        teacher: a classifier made from the same messages, for examples as S has them, or None.
    """

    synthetic: SyntheticDataset | None
    card: Mapping[str, Any]
    ledgers: Mapping[str, bytes]
    folder: Path | None = field(default=None, compare=False)
    teacher: TrainedNetwork | None = None

    @property
    def dataset(self) -> SyntheticDataset:
        """S.

        Raises:
            ReleaseError: the release holds none, but a network, `teacher`.
        """
        if self.synthetic is None:
            raise ReleaseError(
                f"the synthetic data set of a release of {self.card['method']['name']}",
                "a release that holds one",
                "Take `teacher`, the network that it holds.",
            )
        return self.synthetic

    @property
    def private(self) -> bool:
        """Does every client have a finite bill?"""
        return bool(self.card["private"])

    @property
    def verdict(self) -> str:
        """The largest epsilon among the clients, rounded up, and its grade; or that there is no guarantee."""
        if lost := self.card.get("unaccounted"):
            return f"NOT PRIVATE: the ledgers of {', '.join(sorted(lost))} do not account for their messages"
        if not self.private:
            return "NOT PRIVATE: no guarantee"
        most, delta = max(self.epsilon.values()), float(self.card["plan"]["delta"])
        return f"epsilon {rounded_up(most)} at delta {delta:g} a client: {grade_of(most, delta)} privacy"

    @property
    def traffic(self) -> dict[str, dict[str, int]]:
        """Bytes "sent" and "received" by each client, as the server counted them; empty where the card has none."""
        return {name: dict(counts) for name, counts in self.card.get("traffic", {}).items()}

    @property
    def epsilon(self) -> dict[str, float]:
        """The claim of this run: epsilon(T_max) of each client at the card's delta.

        Infinite without privacy, and for a client whose ledger does not account for its messages.
        """
        claims = {name: as_number(bill["claim"]["epsilon"]) for name, bill in self.card["clients"].items()}
        return claims | dict.fromkeys(self.card.get("unaccounted", ()), math.inf)
