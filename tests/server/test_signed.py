"""Signatures as they come at the end: kept where they are of the ledger that is kept; else nothing is lost but they."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable

import pytest
import torch
from releases import INFO, PRIVACY, fit
from wiring import Faulty

from private_distdd.data.dataset import ImageDataset
from private_distdd.methods.distdd import DistDD
from private_distdd.release.release import Release
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey
from private_distdd.wire.attestation import Signed
from private_distdd.wire.engine import ENROL, LEDGER
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment

STRANGER = SiteKey.for_this_process()
Change = Callable[[Reply], Reply | None]


def answered(answer: bytes) -> Change:
    return lambda reply: Reply(answer, reply.ledger)


def attested(key: SiteKey | None = None, **changes: object) -> Change:
    """Another attestation, signed by another key or not signed anew."""

    def change(reply: Reply) -> Reply:
        signed = Signed.from_bytes(reply.answer)
        own = dataclasses.replace(signed.attestation, **changes)  # type: ignore[arg-type]
        signed = dataclasses.replace(signed, attestation=own) if key is None else key.sign(own)
        return Reply(signed.to_bytes(), reply.ledger)

    return change


def release_with(operation: str, change: Change) -> Release:
    clients = [Client(name, ImageDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO)) for name in "ab"]

    def fault(asked: str, name: str, n: int, reply: bytes) -> bytes | None:
        if (asked, name) != (operation, "a"):
            return reply
        changed = change(Reply.from_bytes(reply))
        return None if changed is None else changed.to_bytes()

    method = DistDD(ipc=1, rounds=2, matching_steps=1, model="mlp", privacy=PRIVACY)
    return method.fit(Faulty(clients, fault), info=INFO)


def test_every_client_signs_and_its_key_is_marked() -> None:
    release = fit(PRIVACY)
    assert release.failures() == []
    signers = release.signers({})
    assert sorted(signers) == ["ann", "bob"]
    assert all(signer.throwaway and not signer.known for signer in signers.values())
    assert len({signer.fingerprint for signer in signers.values()}) == 2


CHANGES: dict[str, Change] = {
    "absent": lambda reply: None,
    "an older site": answered(b""),
    "refuses": answered(Refusal("not_enrolled").to_bytes()),
    "garbage": answered(b"\xff{"),
    "nested": answered(b'{"a":' * 10_000),
    "an enrolment": answered(Enrolment("a").to_bytes()),
    "another key": attested(STRANGER),
    "another client": attested(client_id="b"),
    "fewer lines": attested(ledger_lines=1),
    "a higher claim": attested(epsilon=99.0),
    "edited": attested(day="2000-01-01"),
    "no ledger": lambda reply: Reply(reply.answer, b""),
    "a spoilt ledger": lambda reply: Reply(reply.answer, reply.ledger[:-5]),
    "a shorter ledger": lambda reply: Reply(reply.answer, reply.ledger[: reply.ledger.index(b"\n") + 1]),
}


@pytest.mark.parametrize("how", sorted(CHANGES))
def test_a_site_that_signs_nothing_of_use_loses_its_signature_alone(how: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "private_distdd"):
        release = release_with(LEDGER, CHANGES[how])
    assert release.failures() == []
    assert release.private
    assert set(release.ledgers) == {"a", "b"}
    assert release.signers({})["a"].fingerprint is None
    assert release.signers({})["b"].fingerprint is not None
    assert any("client a" in line for line in caplog.messages)


def test_a_key_that_was_not_told_at_the_start_may_sign() -> None:
    """An enrolment without a key binds to none; whose key it is, only `owners` can say."""
    release = release_with(ENROL, answered(Enrolment("a").to_bytes()))
    assert None not in {signer.fingerprint for signer in release.signers({}).values()}


def test_a_key_other_than_that_of_the_enrolment_does_not_count() -> None:
    release = release_with(ENROL, answered(Enrolment("a", STRANGER.public_key).to_bytes()))
    assert release.signers({})["a"].fingerprint is None
    assert release.failures() == []
