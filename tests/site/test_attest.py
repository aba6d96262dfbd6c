"""What a client signs: its own ledger, for runs that it agreed to, and nothing that it is merely asked for."""

from __future__ import annotations

import dataclasses
import datetime

import pytest
from answers import MakeImages, query

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import NotEnrolledError
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Ledger, parse
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.release.bill import bill_of
from private_distdd.site.client import Client
from private_distdd.site.endpoint import Endpoint
from private_distdd.site.key import SiteKey
from private_distdd.wire.attestation import Signed
from private_distdd.wire.engine import ENROL, LEDGER
from private_distdd.wire.refusal import Refusal
from private_distdd.wire.reply import Reply
from private_distdd.wire.run import Enrolment, Run


def test_all_of_it_is_the_ledger_s_but_the_day(client: Client, run: Run) -> None:
    for server_round in range(2):
        client.answer(query(run, server_round))
    client.ledger.charge(SampledGaussian(3.0, 0.1), "another:0")
    before = datetime.datetime.now(datetime.UTC).date()
    signed, data = client.attest(run)
    own, history = signed.attestation, parse(data)
    assert data == client.ledger.to_bytes()
    assert (own.client_id, own.run_id, own.terms) == ("clinic", "run-1", run.terms_digest)
    assert (own.ledger_lines, own.ledger_head) == (len(history), history.head)
    assert (own.epsilon, own.delta) == (bill_of(history, run)["claim"]["epsilon"], 1e-5)
    assert before <= datetime.date.fromisoformat(own.day) <= datetime.datetime.now(datetime.UTC).date()
    assert own.throwaway
    assert signed.is_sound()


def test_it_costs_nothing(client: Client, run: Run) -> None:
    before = client.ledger.to_bytes()
    client.attest(run)
    assert client.ledger.to_bytes() == before


def test_data_cannot_be_told_from_what_is_signed(make_images: MakeImages, run: Run) -> None:
    """Two data sets, one key, one signature: Ed25519 draws nothing, so all of it may be compared."""
    key, signed = SiteKey.for_this_process(), []
    for images in (make_images(12), make_images(0)):
        own = Client("clinic", images, key=key)
        own.enroll(run)
        signed.append(own.attest(run))
    assert signed[0] == signed[1]


def test_a_run_that_nobody_agreed_to_is_not_signed(client: Client, run: Run, tiny_info: DatasetInfo) -> None:
    assert run.plan is not None
    others = (
        Run("run-2", tiny_info, run.plan),
        Run("run-1", tiny_info, dataclasses.replace(run.plan, delta=1e-6)),
        Run("run-1", tiny_info, dataclasses.replace(run.plan, max_grad_norm=2.0)),
        Run("run-1", dataclasses.replace(tiny_info, name="other"), run.plan),
        Run("run-1", tiny_info, run.plan, "int8"),
        Run("run-1", tiny_info, None),
    )
    for other in others:
        with pytest.raises(NotEnrolledError, match="agreed"):
            client.attest(other)
    client.attest(run)


def test_started_anew_it_signs_what_its_ledger_agreed_to(client: Client, run: Run, make_images: MakeImages) -> None:
    again = Client("clinic", make_images(12), client.ledger)
    assert again.attest(run)[1] == client.ledger.to_bytes()


def test_without_privacy_it_signs_that_there_is_no_guarantee(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    run = Run("open", tiny_info, None)
    own = Client("clinic", make_images(3), allow_without_privacy=True)
    with pytest.raises(NotEnrolledError):
        own.attest(run)
    own.enroll(run)
    own.answer(query(run))
    assert own.attest(run)[0].attestation.epsilon == "infinity"
    with pytest.raises(NotEnrolledError):  # the ledger does not say what was agreed to
        Client("clinic", make_images(3), own.ledger, allow_without_privacy=True).attest(run)


def test_noise_that_is_not_secure_is_signed_as_no_guarantee(make_images: MakeImages, run: Run) -> None:
    own = Client("clinic", make_images(3), randomness=InsecureRandomness(0))
    own.enroll(run)
    assert own.attest(run)[0].attestation.epsilon == "infinity"


def test_the_owner_s_key_is_no_throw_away(make_images: MakeImages, run: Run) -> None:
    key = SiteKey(SiteKey.for_this_process()._private)
    own = Client("clinic", make_images(3), key=key)
    assert own.enroll(run) == Enrolment("clinic", key.public_key)
    signed, _ = own.attest(run)
    assert (signed.fingerprint, signed.attestation.throwaway) == (key.fingerprint, False)


def test_the_endpoint_signs_the_ledger_that_it_hands_over(client: Client, run: Run) -> None:
    """Another run's line may come between: the signature must be of the bytes beside it."""
    written = iter(range(9))

    class Busy(Ledger):
        def to_bytes(self) -> bytes:
            data = super().to_bytes()
            self.charge(SampledGaussian(3.0, 0.1), f"another:{next(written)}")
            return data

    client.ledger.__class__ = Busy
    reply = Reply.from_bytes(Endpoint(client).handle(LEDGER, run.to_bytes()))
    signed = Signed.from_bytes(reply.answer)
    assert (signed.attestation.ledger_lines, signed.attestation.ledger_head) == (2, parse(reply.ledger).head)


def test_the_endpoint_hands_over_the_ledger_in_any_case(client: Client, run: Run, tiny_info: DatasetInfo) -> None:
    endpoint = Endpoint(client)

    def answer(request: bytes) -> bytes:
        reply = Reply.from_bytes(endpoint.handle(LEDGER, request))
        assert reply.ledger == client.ledger.to_bytes()
        return reply.answer

    assert answer(b"") == b""
    assert answer(Run("run-2", tiny_info, run.plan).to_bytes()) == Refusal("not_enrolled").to_bytes()
    assert answer(b"sign this") == Refusal("refused").to_bytes()
    assert Signed.from_bytes(answer(run.to_bytes())).is_sound()


def test_an_enrolment_of_before_there_were_keys_is_read() -> None:
    assert Enrolment.from_bytes(b'{"client_id":"clinic","kind":"enrolment"}') == Enrolment("clinic")
    assert Enrolment("clinic").to_bytes() == b'{"client_id":"clinic","kind":"enrolment"}'


def test_the_enrolment_carries_the_key(client: Client, run: Run) -> None:
    reply = Reply.from_bytes(Endpoint(client).handle(ENROL, run.to_bytes()))
    assert Enrolment.from_bytes(reply.answer) == Enrolment("clinic", client.key.public_key)
