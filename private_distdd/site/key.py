"""A site's key: what others know its owner by."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from private_distdd.errors import ConfigurationError
from private_distdd.files import descriptor, read_file, sync, write_durably
from private_distdd.site.consent import Consent
from private_distdd.wire.attestation import Attestation, Signed, fingerprint_of

_LONGEST = 1 << 12  # bytes of a key's file


class SiteKey:
    """An Ed25519 key.  It signs attestations and its owner's consents, each under its format's name, and nothing
    else: so nobody can have it sign what reads otherwise.

    Args:
        private: the key itself.
        throwaway: it ends with this process: nobody's identity.
    """

    def __init__(self, private: Ed25519PrivateKey, *, throwaway: bool = False) -> None:
        self._private, self.throwaway = private, throwaway

    def __repr__(self) -> str:
        return f"SiteKey({self.fingerprint})"

    @classmethod
    def create(cls, path: str | os.PathLike[str]) -> SiteKey:
        """A new key in a new file, for its owner's eyes only: PKCS #8 in PEM, without a password.

        Raises:
            ConfigurationError: the file exists, or cannot be written.
        """
        key, file = cls(Ed25519PrivateKey.generate()), Path(path)
        try:
            with descriptor(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600) as opened:
                try:
                    write_durably(opened, key._pem())
                except BaseException:  # half a key is none, and would keep out a whole one
                    file.unlink(missing_ok=True)
                    raise
            sync(file.parent)
        except OSError as error:
            raise ConfigurationError(
                f"{file}: {error.strerror or error}",
                "a new file in a folder that exists",
                "A key is never overwritten: load it, or choose another name.",
            ) from error
        return key

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> SiteKey:
        """The key in a file that `create` made.

        Raises:
            ConfigurationError: it cannot be read, others may read it too, or it holds no Ed25519 key.
        """
        file = Path(path)
        try:
            data, mode = read_file(file, _LONGEST), stat.S_IMODE(os.stat(file).st_mode)
        except OSError as error:
            raise ConfigurationError(
                f"{file}: {error.strerror or error}", "the file of a key", "Make one: SiteKey.create."
            ) from error
        if mode & 0o077:
            raise ConfigurationError(
                f"{file}, which others may read (mode {mode:04o})",
                "a file for its owner's eyes only",
                "Others may have the key: make a new one and tell its fingerprint, or chmod 600 if nobody read it.",
            )
        try:
            private = serialization.load_pem_private_key(data, password=None)
            if not isinstance(private, Ed25519PrivateKey):
                raise ValueError("it is a key of another kind")
        except (ValueError, TypeError, UnsupportedAlgorithm) as error:  # TypeError: a password is wanted
            raise ConfigurationError(
                f"{file}, which cannot be read as a key", "a file that SiteKey.create made", "Restore it from a copy."
            ) from error
        return cls(private)

    @classmethod
    def for_this_process(cls) -> SiteKey:
        """A throw-away key: in memory only."""
        return cls(Ed25519PrivateKey.generate(), throwaway=True)

    @property
    def public_key(self) -> str:
        """32 bytes, in hexadecimal."""
        raw = serialization.Encoding.Raw, serialization.PublicFormat.Raw
        return self._private.public_key().public_bytes(*raw).hex()

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the public key, in hexadecimal: tell it to others by a way that they trust."""
        return fingerprint_of(self.public_key)

    def sign(self, attestation: Attestation) -> Signed:
        """The attestation with this key's signature."""
        return Signed(attestation, self.public_key, self._private.sign(attestation.to_bytes()).hex())

    def sign_consent(self, consent: Consent) -> str:
        """The consent's signature: 64 bytes, in hexadecimal."""
        return self._private.sign(consent.to_bytes()).hex()

    def signed_consent(self, consent: Consent, signature: str) -> bool:
        """Is that what this key signed?"""
        try:
            self._private.public_key().verify(bytes.fromhex(signature), consent.to_bytes())
        except (InvalidSignature, ValueError):  # ValueError: no hexadecimal digits
            return False
        return True

    def _pem(self) -> bytes:
        return self._private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
