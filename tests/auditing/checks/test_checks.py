"""The deterministic audits: silent on the library, and pointing at what is wrong otherwise."""

from __future__ import annotations

import math

import pytest
import torch

from private_distdd import DistDD, Privacy
from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.checks.bill import Tap, bill_check
from private_distdd.auditing.checks.replay import replay_client, replay_sensitivity
from private_distdd.auditing.setting import Measure, Setting, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.engines.in_process import InProcess
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Ledger
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query


@pytest.mark.parametrize("rate", [1.0, 0.5])
def test_replay_is_silent_on_the_library(rate: float) -> None:
    record = replay_sensitivity(Setting(sample_rate=rate))
    assert not record.findings
    assert not record.rejected
    assert 0.99 < record.figures["largest move in C / b"] <= 1


def test_replay_sees_a_clip_at_twice_the_norm() -> None:
    def twice(sigma: float, q: float, max_grad_norm: float, divisor: float) -> Measure:
        return library(sigma, q, 2 * max_grad_norm, divisor)

    record = replay_sensitivity(Setting(mechanism=twice))
    assert record.rejected
    assert any("huge" in line for line in record.findings)


def test_replay_end_to_end(digits: ImageDataset) -> None:
    background = ImageDataset(digits.images[:8], digits.labels[:8], digits.info)
    question = about_gradients(ModelSpec("mlp", {"width": 8}), digits.info)
    record = replay_client(background, (digits.images[9], int(digits.labels[9])), question)
    assert not record.findings
    assert record.figures["largest move in C / b"] == pytest.approx(1, abs=1e-3)


def fit(client: Client) -> Tap:
    tap = Tap(InProcess([client]))
    method = DistDD(
        ipc=1,
        rounds=4,
        matching_steps=1,
        model="mlp",
        model_args={"width": 8},
        privacy=Privacy(noise_multiplier=1.0),
        seed=0,
    )
    method.fit(tap, info=client.info)
    return tap


class Forgetful(Client):
    """Pays for every other message only."""

    def answer(self, query: Query) -> Message:
        if query.server_round % 2 == 0:
            return super().answer(query)
        kept, self.ledger = self.ledger, Ledger(None)
        try:
            return super().answer(query)
        finally:
            self.ledger = kept


def test_the_bill_of_a_whole_run_is_right(digits: ImageDataset) -> None:
    record = bill_check(fit(Client("clinic", ImageDataset(digits.images[:30], digits.labels[:30], digits.info))))
    assert not record.findings
    assert record.trials == 4


def test_an_unpaid_message_is_found(digits: ImageDataset) -> None:
    record = bill_check(fit(Forgetful("clinic", ImageDataset(digits.images[:30], digits.labels[:30], digits.info))))
    assert record.rejected
    assert len(record.findings) == 2
    assert "1 messages passed, 0 were charged" in record.findings[0]


def test_other_parameters_than_agreed_are_found(digits: ImageDataset) -> None:
    tap = fit(Client("clinic", ImageDataset(digits.images[:30], digits.labels[:30], digits.info)))
    (run_id,) = tap.plans
    plan = tap.plans[run_id]
    assert plan is not None
    object.__setattr__(plan, "noise_multiplier", 2.0)
    assert len(bill_check(tap).findings) == 4


def test_crafted_example_fools_float32() -> None:
    from private_distdd.auditing.checks.replay import _crafted

    row = _crafted()
    assert torch.linalg.vector_norm(row).item() <= 1 < torch.linalg.vector_norm(row.double()).item()
    assert math.isclose(torch.linalg.vector_norm(row.double()).item(), 1.0001, rel_tol=1e-7)
