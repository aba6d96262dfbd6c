"""The runs that were offered to a site whose owner wants to be asked, and those that the owner agreed to."""

from __future__ import annotations

import logging
import re
from pathlib import Path

from private_distdd.errors import ConfigurationError, PrivateDistDDError
from private_distdd.files import read_file, write_file
from private_distdd.limits import CONTROL_BYTES
from private_distdd.site.consent import Consent
from private_distdd.site.key import SiteKey
from private_distdd.wire.run import Run

SUFFIX = ".consents"  # of the folder beside a ledger, which it is named after
MOST_WAITING = 64
"""Offers that wait: whoever reaches the site can make more, and must not fill its disk."""


def is_digest(name: str) -> bool:
    """Has it the form of a SHA-256?"""
    return re.fullmatch("[0-9a-f]{64}", name) is not None


class Consents:
    """A folder, for its owner's eyes only: a file for each offer that waits, and for each that was agreed to.

    An offer is named by its terms' SHA-256, so an approval is of these terms and no others, under whatever name.

    Args:
        folder: made when absent.
        client_id: whose data it is about.
        key: the site's, which signs what the owner agrees to.

    Raises:
        ConfigurationError: the folder cannot be made.

    Formal guarantee: a run is agreed to only if `approve` was called on exactly its bytes by somebody who has the key.
    """

    def __init__(self, folder: Path, client_id: str, key: SiteKey) -> None:
        self._folder, self._client_id, self._key = folder, client_id, key
        self._log = logging.getLogger(f"private_distdd_client.{client_id}")
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{folder}: {error.strerror}", "a place for a folder", "Mend that.") from error

    def __call__(self, run: Run) -> bool:
        """Did the owner agree?  If not, the offer waits from now on."""
        if self._agreed(run):
            return True
        if not self._offer(run).exists():
            if len(self.waiting()) >= MOST_WAITING:
                self._log.warning("run %s is not even kept: %d others wait already", run.run_id, MOST_WAITING)
                return False
            write_file(self._offer(run), run.to_bytes(), mode=0o600)
            self._log.warning("run %s waits for consent: private-distdd site approve", run.run_id)
        return False

    def waiting(self) -> list[Run]:
        """Offers without an answer, the oldest first."""
        return [run for run in self._offers() if not self._agreed(run)]

    def find(self, name: str) -> Run:
        """The offer that waits under a run's name, or with the terms of this SHA-256, in all its 64 digits.

        Whoever makes an offer names it: what has the form of a hash is a hash, and never a name.

        Raises:
            ConfigurationError: there is none, or several.
        """
        waiting = self.waiting()
        found = [run for run in waiting if name == (run.terms_digest if is_digest(name) else run.run_id)]
        if len(found) != 1:
            names = [f"{run.run_id} (terms {run.terms_digest})" for run in found or waiting]
            raise ConfigurationError(
                f"{len(found)} runs {name!r} among those that wait",
                f"one of {names}" if names else "a run that waits; none does",
                "Give the run's name, or its terms' hash.",
            )
        return found[0]

    def approve(self, run: Run) -> None:
        """The owner agrees: signed, and on disk when this returns.

        Raises:
            ConfigurationError: it cannot be written.
        """
        try:
            write_file(self._given(run), self._key.sign_consent(self._consent(run)).encode(), mode=0o600)
            self._offer(run).unlink(missing_ok=True)
        except OSError as error:
            raise ConfigurationError(f"{self._folder}: {error.strerror}", "a folder with room", "Mend it.") from error

    def decline(self, run: Run) -> None:
        """The owner does not: the offer waits no longer, until somebody makes it again."""
        self._offer(run).unlink(missing_ok=True)

    def _agreed(self, run: Run) -> bool:
        try:
            signature = read_file(self._given(run), CONTROL_BYTES).decode("ascii", "replace")
        except OSError:
            return False
        signed = self._key.signed_consent(self._consent(run), signature)
        if not signed:
            self._log.error("%s is not what this site's key signed: the run is not agreed to", self._given(run))
        return signed

    def _consent(self, run: Run) -> Consent:
        return Consent(self._client_id, run.run_id, run.terms_digest)

    def _offer(self, run: Run) -> Path:
        return self._folder / f"{run.terms_digest}.offer"

    def _given(self, run: Run) -> Path:
        return self._folder / f"{run.terms_digest}.consent"

    def _offers(self) -> list[Run]:
        found = []
        for path in self._folder.glob("*.offer"):
            try:
                run = Run.from_bytes(read_file(path, CONTROL_BYTES))
                found.append((path.stat().st_mtime_ns, run.run_id, run))
            except FileNotFoundError:  # approved meanwhile
                continue
            except (OSError, PrivateDistDDError) as error:
                self._log.error("%s: %s", path, error)
        return [run for *_, run in sorted(found, key=lambda offer: offer[:2])]
