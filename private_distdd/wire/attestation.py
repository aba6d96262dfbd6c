"""What a site signs of its ledger at the end of a run, and the signature."""

from __future__ import annotations

import datetime
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from private_distdd.encoding import sha256, to_json
from private_distdd.errors import ConfigurationError
from private_distdd.validate import is_whole, require_identifier
from private_distdd.wire.parsing import json_of_kind, or_refuse

FORMAT = "private_distdd.attestation/1"


@dataclass(frozen=True)
class Attestation:
    """What a site says of its own ledger: the terms of one run, the ledger's end, and what the run may cost by it.

    Args:
        client_id: whose ledger it is.
        run_id: the run.
        terms: `Run.terms_digest`: SHA-256 of everything that was agreed to.
        ledger_lines: length of the ledger, >= 1.
        ledger_head: SHA-256 of its last line, which fixes all lines before it.
        epsilon: the run's claim by the ledger as the card writes it: finite and >= 0, or "infinity".
        delta: of the claim, 0 < delta < 1.
        day: of the signature, in UTC, for example "2026-11-27".
        throwaway: the key was made by the client's process and ends with it: it is nobody's identity.

    Raises:
        QueryRefusedError, ConfigurationError: a value is not of this form.
    """

    client_id: str
    run_id: str
    terms: str
    ledger_lines: int
    ledger_head: str
    epsilon: float | str
    delta: float
    day: str
    throwaway: bool

    def __post_init__(self) -> None:
        require_identifier("client_id", self.client_id)
        require_identifier("run_id", self.run_id)
        for name, digits in (("terms", self.terms), ("ledger_head", self.ledger_head)):
            require_hex(name, digits, 32)
        finite = isinstance(self.epsilon, float) and 0 <= self.epsilon < math.inf
        for name, sound in (
            ("ledger_lines", is_whole(self.ledger_lines) and self.ledger_lines >= 1),
            ("epsilon", finite or self.epsilon == "infinity"),
            ("delta", isinstance(self.delta, float) and 0 < self.delta < 1),
            ("day", _is_day(self.day)),
            ("throwaway", isinstance(self.throwaway, bool)),
        ):
            if not sound:
                raise ConfigurationError(
                    f"{name} = {getattr(self, name)!r}", "a value as Attestation describes it", "Correct it."
                )

    def to_bytes(self) -> bytes:
        """What is signed: the format's name, which no other text that a key signs begins with, and canonical JSON."""
        return f"{FORMAT}\n{to_json(asdict(self))}".encode()


@dataclass(frozen=True)
class Signed:
    """An attestation with a signature (Ed25519, RFC 8032); `is_sound` says whether it is one, not whose key it is.

    Args:
        attestation: what is signed.
        public_key: 32 bytes, in hexadecimal.
        signature: 64 bytes, in hexadecimal.

    Raises:
        ConfigurationError: a value is not of this form.
    """

    attestation: Attestation
    public_key: str
    signature: str

    def __post_init__(self) -> None:
        require_hex("public_key", self.public_key, 32)
        require_hex("signature", self.signature, 64)

    @property
    def fingerprint(self) -> str:
        """See `fingerprint_of`."""
        return fingerprint_of(self.public_key)

    def is_sound(self) -> bool:
        """Did the key that it names sign exactly this?"""
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.public_key))
            key.verify(bytes.fromhex(self.signature), self.attestation.to_bytes())
        except (InvalidSignature, ValueError):  # ValueError: 32 bytes that are no key
            return False
        return True

    def to_json(self) -> dict[str, Any]:
        """As the card of a release holds it."""
        return {"format": FORMAT, **asdict(self)}

    @classmethod
    def from_json(cls, record: Mapping[str, Any]) -> Signed:
        """The inverse of `to_json`.

        Raises:
            ValueError, TypeError, KeyError, QueryRefusedError: it is malformed.
        """
        values = dict(record)
        if values.pop("format") != FORMAT:
            raise ValueError(f"the format is {record['format']!r}, not {FORMAT!r}")
        return cls(**values | {"attestation": Attestation(**values["attestation"])})

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        return to_json({"kind": "signed", **self.to_json()}).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Signed:
        """The inverse of `to_bytes`.

        Raises:
            QueryRefusedError: the bytes are malformed, or a value is out of range.
        """

        def parse() -> Signed:
            record = json_of_kind(data, "signed", {"format", "attestation", "public_key", "signature"})
            return cls.from_json({name: value for name, value in record.items() if name != "kind"})

        return or_refuse("signed attestation", parse)


def fingerprint_of(public_key: str) -> str:
    """SHA-256 of the 32 bytes of a public key, in hexadecimal: what its owner tells others, to be known by.

    Args:
        public_key: 32 bytes, in hexadecimal.
    """
    return sha256(bytes.fromhex(public_key))


def require_hex(name: str, value: object, length: int) -> str:
    """`value` if it is so many bytes in lower-case hexadecimal.

    Raises:
        ConfigurationError: it is not.
    """
    if not isinstance(value, str) or not re.fullmatch(rf"[0-9a-f]{{{2 * length}}}", value):
        raise ConfigurationError(f"{name} = {value!r}", f"{2 * length} digits of 0-9 a-f", "Copy all of it.")
    return value


def _is_day(value: object) -> bool:
    try:
        return isinstance(value, str) and datetime.date.fromisoformat(value).isoformat() == value
    except ValueError:
        return False
