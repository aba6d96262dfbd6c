"""The release: S with its card and its ledgers, as one folder that whoever receives it can check."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path

from private_distdd.encoding import sha256
from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.files import sync
from private_distdd.release.card import render_card
from private_distdd.release.contents import Contents
from private_distdd.release.folder import (
    CARD,
    CARD_PAGE,
    LEDGERS,
    MANIFEST,
    PREVIEW,
    SYNTHETIC,
    TEACHER,
    contents_of,
    line_of,
    manifest_of,
    pretty,
    read_release,
)
from private_distdd.release.notebook import render_release
from private_distdd.release.signatures import Signer, checked_owners, signers_of
from private_distdd.release.verify import failures_of
from private_distdd.validate import require_identifier, require_path

_log = logging.getLogger("private_distdd")


class Release(Contents):
    """What is handed on: S, or a network, or both; the card, and the ledgers that the card's numbers follow from.

    Args:
        synthetic: S, which is `dataset` where there is one; None where a network is all that was made.
        card: the record described in docs/verifying.md; plain JSON values.
        ledgers: each client's ledger file as it stood at the end, by client_id.
        folder: where it was loaded from; `verify` then also checks the page and the picture there.
        teacher: a classifier made from the same messages, so that the card's claim is its claim too; None without.
    """

    def __repr__(self) -> str:
        s, card = self.synthetic, self.card
        held = "a network" if s is None else f"{len(s.labels)} {s.info.form.many}"
        try:
            made = f"{line_of(card['method']['name'])} on {card['data']['name']!r}"
            return f"Release({made}: {held}; {len(card['clients'])} clients; {line_of(self.verdict)})"
        except (KeyError, TypeError, ValueError, AttributeError):  # whoever looks for what is wrong prints it
            return f"Release({held}; a card that cannot be read)"

    def _repr_html_(self) -> str | None:
        """For notebooks: the picture of S, the verdict and the bill; None, and so the words, for a malformed card."""
        try:
            return render_release(self)
        except (KeyError, TypeError, ValueError, AttributeError, PrivateDistDDError):
            return None

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the folder, whole or not at all; missing parent folders are made.

        Raises:
            ReleaseError: the folder exists, or it cannot be written (a full disk, for example); nothing stays behind.
        """
        folder = require_new(path)
        partial = folder.with_name(f".{folder.name}.{uuid.uuid4().hex}.partial")
        try:
            (partial / LEDGERS).mkdir(parents=True)
            self._write(partial)
            os.rename(partial, folder)
        except BaseException as error:  # Ctrl-C too
            shutil.rmtree(partial, ignore_errors=True)
            if not isinstance(error, Exception):
                raise
            raise ReleaseError(
                f"{folder} cannot be written: {error}", "a writable place with room", "Free some, or save elsewhere."
            ) from error
        with contextlib.suppress(OSError):  # the release is whole by now, whatever this file system can flush
            sync(folder.parent)
        return folder

    def _write(self, folder: Path) -> None:
        if self.synthetic is not None:
            self.synthetic.save(folder / SYNTHETIC)
            self.synthetic.preview(folder / PREVIEW)
        (folder / CARD).write_bytes(pretty(self.card))
        (folder / CARD_PAGE).write_bytes(render_card(self.card).encode())
        for client_id, data in self.ledgers.items():
            name = require_identifier("client_id", client_id)
            with open(folder / LEDGERS / f"{name}.jsonl", "xb") as file:  # "a" and "A" may be one file
                file.write(data)
        if self.teacher is not None:
            self.teacher.save(folder / TEACHER)
        if self.synthetic is not None:
            shutil.copymode(folder / CARD, folder / SYNTHETIC)  # safetensors writes for the owner's eyes only
        contents = contents_of(folder)
        (folder / MANIFEST).write_bytes(manifest_of({name: sha256(data) for name, data in contents.items()}))
        for name in (*contents, MANIFEST):
            sync(folder / name)
        sync(folder / LEDGERS)
        sync(folder)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Release:
        """Read a release folder after checking every file against its manifest.

        Raises:
            ReleaseError: not a release, files missing, added or changed, or contents that cannot be read.
        """
        found = read_release(require_path("the release's folder", path))
        if isinstance(found, Contents):
            return cls(found.synthetic, found.card, found.ledgers, found.folder, found.teacher)
        raise ReleaseError(f"{path}: " + "; ".join(found), "a release folder as it was saved", "Ask for it again.")

    def verify(self, owners: Mapping[str, str] | None = None) -> None:
        """Recompute, from the ledgers, every number on the card, and check that card, ledgers and S fit together.

        Args:
            owners: fingerprints of the owners' keys (`SiteKey.fingerprint`) by client, got by another way than the
                release: each of these clients must be on the card, each client on the card must be one of these, and
                its ledger must be signed with that key.  None checks only that signatures are sound; whose keys they
                are is then not confirmed, and there need not be any.

        Formal guarantee: arithmetic and integrity only.  A release that passes has, in every ledger it holds, an
        unbroken chain; in each, this run's pin of exactly the card's sigma, q and T_max, and no more charges; on its
        card, the epsilons that both accountants compute from these; files as in its manifest; and, where it was loaded
        from a folder, a page and a picture that show this card (where this version of the library wrote it) and S.
        With `owners`, each of these ledgers is, up to its last line, one that the owner's key signed for this client,
        this run and its terms.

        Whoever can write the whole folder can forge what follows from nothing else in it, and no check of the folder
        alone can tell: a client left out with its ledger; ledgers written anew, or cut and their chain and card redone
        with them; names, versions, seeds and other settings; rounds in which nobody answered; fewer messages used than
        were sent; the traffic; another S of the same shape with its picture, other soft labels or other weights of the
        teacher; a page when the card names another version of the library.  Against that: get the manifest's hash from
        the maker by another way, and `owners` from the owners.  Against `owners` clients and ledgers can no longer be
        left out, invented or written anew; all else on that list can.  That noise and coins were really drawn is
        trusted (and audited); see docs/verifying.md.

        Raises:
            ReleaseError: one line for each failure.
            QueryRefusedError, ConfigurationError: `owners` are no clients with fingerprints.
        """
        failures = self.failures(owners)
        if failures:
            raise ReleaseError("\n".join(failures), "a release whose numbers follow from its ledgers", "Do not use it.")

    def failures(self, owners: Mapping[str, str] | None = None) -> list[str]:
        """What `verify` finds wrong, a line each; empty for a sound release."""
        return failures_of(self, None if owners is None else checked_owners(owners))

    def signers(self, owners: Mapping[str, str]) -> dict[str, Signer]:
        """Who signed each client's ledger; sound where `verify` finds nothing wrong."""
        return signers_of(self.card, checked_owners(owners))


def require_new(path: str | os.PathLike[str]) -> Path:
    """The path, if a folder can be made there: ask before the work whose release is to be saved; parents are made.

    Raises:
        ReleaseError: something lies there, or no folder can be made.
    """
    folder = require_path("the release's folder", path)
    if os.path.lexists(folder):
        raise ReleaseError(f"{folder} exists", "a new folder", "Choose another name; nothing is ever overwritten.")
    try:
        folder.mkdir(parents=True)
        folder.rmdir()
    except OSError as error:
        raise ReleaseError(
            f"{folder} cannot be made: {error.strerror}", "a writable place with room", "Save elsewhere."
        ) from error
    return folder


def manifest_hash(folder: Path) -> str:
    """SHA-256 of a release's manifest, in hexadecimal: it fixes every byte of the release."""
    return sha256((folder / MANIFEST).read_bytes())


def verify_folder(path: str | os.PathLike[str], owners: Mapping[str, str] | None = None) -> list[str]:
    """All that is wrong with a release folder, a line each, whatever lies there; empty for a sound one.

    What can be noticed and what cannot, and the owners: see `Release.verify`.
    """
    known = None if owners is None else checked_owners(owners)
    found = read_release(Path(path))
    return failures_of(found, known) if isinstance(found, Contents) else found
