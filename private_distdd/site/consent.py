"""An owner's consent to one run, as the site's key signs it."""

from __future__ import annotations

from dataclasses import asdict, dataclass

from private_distdd.encoding import to_json

FORMAT = "private_distdd.consent/1"


@dataclass(frozen=True)
class Consent:
    """The owner agrees to exactly these terms.

    Args:
        client_id: whose data it is about.
        run_id: the run.
        terms: `Run.terms_digest`: SHA-256 of everything that is agreed to.
    """

    client_id: str
    run_id: str
    terms: str

    def to_bytes(self) -> bytes:
        """What is signed: the format's name, which no other text that a key signs begins with, and canonical JSON."""
        return f"{FORMAT}\n{to_json(asdict(self))}".encode()
