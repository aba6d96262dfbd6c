"""The gates of issue 9's survivors, one by one: the library passes, and each says what is wrong with its mutant."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from private_distdd.auditing.attacks.runs import components
from private_distdd.auditing.checks.answered import answered
from private_distdd.auditing.checks.bill import retry_check
from private_distdd.auditing.checks.budget import divergence, filter_check
from private_distdd.auditing.checks.coins import client_coin_check, coin_check
from private_distdd.auditing.checks.leaks import client_check
from private_distdd.auditing.checks.noise import client_noise_check, message_check
from private_distdd.auditing.checks.rows import micro_batch_check
from private_distdd.auditing.mutants.mutants import MUTANTS, Mutant
from private_distdd.auditing.probe import every_question
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ModelError, QueryRefusedError
from private_distdd.privacy.accountants.rdp import ROUNDING, renyi_divergences
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query

INFO = DatasetInfo("noise", 40, (1, 8, 8), (0.5,), (0.5,))


def mutant(name: str) -> Mutant:
    (found,) = [one for one in MUTANTS if one.name == name]
    return found


def test_the_counts_weaker_noise_is_seen_end_to_end_in_its_own_block() -> None:
    weaker = mutant("half the noise on the last coordinate, a count")
    assert not client_noise_check(Setting(), info=INFO, width=8).rejected
    record = client_noise_check(Setting(), make=weaker.make, info=INFO, width=8)
    assert any("block 'count'" in line for line in record.findings)
    assert any(
        "column 66" in line for line in message_check(Setting(mechanism=weaker.messages), values=12_000).findings
    )


def test_a_large_message_is_read_to_its_end() -> None:
    setting = Setting(mechanism=mutant("noise on the first 2^21 values only").messages)
    assert any("2,097,152" in line for line in message_check(setting).findings)
    assert not message_check(setting, values=1_000_000).rejected  # a smaller one does not show it
    assert not message_check(Setting()).rejected


def test_one_round_that_takes_everybody_is_seen() -> None:
    broken = mutant("round 1 takes everybody")
    setting = Setting(sample_rate=0.1, rounds=20, mechanism=broken.messages)
    assert any("round 0" in line for line in coin_check(setting).findings)
    assert any("round 0" in line for line in components(setting, 2000).findings)
    assert not components(Setting(sample_rate=0.1, rounds=20), 2000).findings
    client = mutant("round 1 of a client takes everybody").client
    assert any("round 0" in line for line in client_coin_check(Setting(sample_rate=0.3), make=client).findings)
    assert not client_coin_check(Setting(sample_rate=0.3)).rejected


def test_a_restart_and_a_fork_bring_no_noise_back(restarted: AuditRecord) -> None:
    assert not restarted.findings
    assert restarted.trials >= 4


def test_the_filter_is_held_to_its_proof() -> None:
    record = filter_check()
    assert not record.findings
    assert record.trials == 12


@pytest.mark.parametrize(("sigma", "q"), [(30.0, 1.0), (2.0, 0.02), (0.7, 0.3)])
def test_divergences_by_quadrature_are_the_accountants(sigma: float, q: float) -> None:
    orders = (1.5, 2.0, 7.3, 16.0, 40.0)
    mine = [divergence(sigma, q, order) for order in orders]
    stated = renyi_divergences(sigma, q, orders)
    np.testing.assert_allclose(mine, stated / (1 + ROUNDING), rtol=1e-9)
    assert (stated >= mine).all()  # bounds, rounding included


def test_micro_batches_have_one_size() -> None:
    record = micro_batch_check()
    assert not record.findings


def test_a_refusal_is_a_finding_and_another_error_is_not() -> None:
    def refuses() -> AuditRecord:
        raise QueryRefusedError("a batch", "another one", "Wait.")

    def breaks() -> AuditRecord:
        raise ModelError("a network", "another one", "Wait.")

    record = answered(refuses)
    assert record.rejected
    assert record.audit == "refuses"
    with pytest.raises(ModelError):
        answered(breaks)


def test_a_client_that_answers_nobody_tells_nothing_and_cannot_be_audited(digits: ImageDataset) -> None:
    class Closed(Client):
        def answer(self, query: Query) -> Message:
            raise ModelError("any network", "none", "Go away.")

    class Fussy(Client):
        def answer(self, query: Query) -> Message:
            message = super().answer(query)
            if self._labels.numel() == 1:
                raise RuntimeError("one example")
            return message

    held = ImageDataset(digits.images[:20], digits.labels[:20], digits.info)
    question = every_question(digits.info)["class gradients"]
    with pytest.raises(ModelError):
        client_check(held, question, Closed)
    assert "a client with 1 examples fails: RuntimeError" in client_check(held, question, Fussy).findings


@pytest.mark.parametrize(
    ("name", "gate", "says"),
    [
        ("a computation that failed is free to repeat", retry_check, "after 2 tries 1 charges, not 2"),
        ("an empty batch computes nothing", micro_batch_check, "an empty batch computes nothing"),
    ],
)
def test_what_failures_and_empty_batches_cost_is_seen(
    name: str, gate: Callable[[type[Client]], AuditRecord], says: str
) -> None:
    assert gate(Client).findings == ()
    assert any(says in line for line in gate(mutant(name).client).findings)
