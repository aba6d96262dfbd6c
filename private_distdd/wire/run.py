"""What a client is asked to agree to, and its consent."""

from __future__ import annotations

from dataclasses import dataclass

from private_distdd.data.info import DatasetInfo
from private_distdd.encoding import sha256, to_json
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.validate import require_identifier
from private_distdd.wire.attestation import require_hex
from private_distdd.wire.packing import PLAIN, Packing, require_format
from private_distdd.wire.parsing import json_of_kind, or_refuse


@dataclass(frozen=True)
class Run:
    """What a client is asked to agree to once, before the first query: public constants only.

    Args:
        run_id: `[A-Za-z0-9_-]{1,64}`, fresh for each run.
        info: class list, image shape and normalisation.
        plan: the mechanism's constants, or None for a run without privacy.
        message_format: how messages are packed: one of `packing.FORMATS`, "float32" without privacy.

    Raises:
        QueryRefusedError, ConfigurationError: a value is out of range.
    """

    run_id: str
    info: DatasetInfo
    plan: PrivacyPlan | None
    message_format: str = PLAIN

    def __post_init__(self) -> None:
        require_identifier("run_id", self.run_id)
        require_format(self.message_format, self.plan is not None)

    @property
    def packing(self) -> Packing | None:
        """How the run's messages are packed; None where values are sent as they are."""
        return Packing.of(self.message_format, self.plan)

    def to_bytes(self) -> bytes:
        """JSON, ASCII; the usual format is left out: what clients pinned before there were others stays the same."""
        plan = None if self.plan is None else self.plan.to_json()
        record = {"kind": "run", "run_id": self.run_id, "info": self.info.to_json(), "plan": plan}
        if self.message_format != PLAIN:
            record["message_format"] = self.message_format
        return to_json(record).encode()

    @property
    def terms_digest(self) -> str:
        """SHA-256 of all that is agreed to, in hexadecimal: what a client's ledger pins."""
        return sha256(self.to_bytes())

    @classmethod
    def from_bytes(cls, data: bytes) -> Run:
        """The run that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are malformed or a value is out of range.
        """

        def parse() -> Run:
            record = json_of_kind(data, "run", {"run_id", "info", "plan"}, {"message_format"})
            if record.get("message_format") == PLAIN:  # one run, one way to write it
                raise ValueError("the usual message_format is left out")
            plan = None if record["plan"] is None else PrivacyPlan.from_json(record["plan"])
            packed = record.get("message_format", PLAIN)
            return cls(record["run_id"], DatasetInfo.from_json(record["info"]), plan, packed)

        return or_refuse("run", parse)


@dataclass(frozen=True)
class Enrolment:
    """A client's consent to a run.  It carries nothing else: what depends on data is a message, and charged.

    Args:
        client_id: who agrees.
        public_key: of the key that it signs with, 32 bytes in hexadecimal; None of sites that have none.
    """

    client_id: str
    public_key: str | None = None

    def to_bytes(self) -> bytes:
        """JSON, ASCII."""
        record = {"kind": "enrolment", "client_id": self.client_id}
        return to_json(record | ({} if self.public_key is None else {"public_key": self.public_key})).encode()

    @classmethod
    def from_bytes(cls, data: bytes) -> Enrolment:
        """The enrolment that `to_bytes` wrote.

        Raises:
            QueryRefusedError: the bytes are malformed.
        """

        def parse() -> Enrolment:
            record = json_of_kind(data, "enrolment", {"client_id"}, {"public_key"})
            key = require_hex("public_key", record["public_key"], 32) if "public_key" in record else None
            return cls(require_identifier("client_id", record["client_id"]), key)

        return or_refuse("enrolment", parse)
