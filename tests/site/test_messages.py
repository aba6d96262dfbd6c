"""Nothing depends on the data but a message's values: sizes, noise, signal, logs, generators."""

from __future__ import annotations

import dataclasses
import logging
import math
from typing import Any

import numpy as np
import pytest
import torch
from answers import PLAN, SHAPE, SPEC, MakeImages, charges, query
from scipy import stats
from torch.utils.data import Subset, TensorDataset

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import (
    DataError,
    PrivateDistDDError,
)
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.site.client import Client
from private_distdd.site.key import SiteKey
from private_distdd.wire.run import Run

ALPHA = 1e-7
VARIETIES: dict[str, dict[str, Any]] = {
    "empty": {"n": 0},
    "one example": {"n": 1},
    "one class": {"n": 9, "labels": [2] * 9},
    "no class 1": {"n": 4, "labels": [0, 0, 2, 2]},
    "more than a micro-batch": {"n": 200},
}


@pytest.mark.parametrize("weight", [None, math.nan, math.inf])
def test_all_messages_have_one_size_shape_and_type(make_images: MakeImages, run: Run, weight: float | None) -> None:
    seen, key = set(), SiteKey.for_this_process()
    for arguments in VARIETIES.values():
        own = Client("clinic", make_images(**arguments), key=key)
        reply = own.enroll(run).to_bytes()
        asked = query(run)
        if weight is not None:
            asked = query(run, tensors={name: torch.full_like(w, weight) for name, w in asked.tensors.items()})
        message = own.answer(asked)
        assert bool(torch.isfinite(message.values).all())
        assert bool((message.values != 0).any(dim=1).all())  # every class carries noise
        seen.add((reply, len(message.data), message.values.shape, message.values.dtype, message.counts))
        assert len(charges(own.ledger)) == 1
    assert len(seen) == 1


def test_what_a_message_s_noise_is(make_images: MakeImages, run: Run, tiny_info: DatasetInfo) -> None:
    wide = ModelSpec("mlp", {"width": 100, "depth": 1})
    arguments = {"model": wide.to_json(), "granularity": "class"}
    weights = dict(wide.build(SHAPE, 3, 0).state_dict())
    own, other = Client("a", make_images(0)), Client("b", make_images(0))
    noise = []
    for each in (own, other):
        each.enroll(run)
        noise.append([each.answer(query(run, t, arguments=arguments, tensors=weights)).values for t in range(2)])
    z = torch.stack([torch.stack(n) for n in noise]).double().numpy() * PLAN.divisor / PLAN.max_grad_norm
    for sigma, right in ((2.0, True), (2.0 / 1.1, False), (2.0 * 1.1, False), (1.0, False)):
        total = float(np.sum((z / sigma) ** 2))
        p = 2 * min(stats.chi2.cdf(total, z.size), stats.chi2.sf(total, z.size))
        assert bool(p > ALPHA) is right
    pairs = [(z[0], z[1]), (z[:, 0], z[:, 1]), (z[:, :, 0], z[:, :, 1]), (z[..., 1:], z[..., :-1])]
    for a, b in pairs:  # clients, rounds, classes, coordinates
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA


def test_the_signal_is_the_clipped_sum_over_the_public_divisor(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    from private_distdd.questions.per_example import clipped_class_sums

    plan = PrivacyPlan(1e-6, 1.0, 0.5, 40.0, 2, 1e-5)
    data, quiet = make_images(30), Run("run-1", tiny_info, plan)
    own = Client("clinic", data)
    own.enroll(quiet)
    model = SPEC.build(SHAPE, 3, 0)
    expected = clipped_class_sums(model, data.images, data.labels, 3, 0.5) / 40.0
    found = own.answer(query(quiet)).values
    assert torch.allclose(found, expected, atol=1e-6)
    joint = own.answer(query(quiet, 1, arguments={"model": SPEC.to_json(), "granularity": "joint"})).values
    assert joint.shape == (1, expected.shape[1])
    assert torch.allclose(joint[0], expected.sum(dim=0), atol=1e-6)


def test_half_of_the_examples_come_to_half_of_the_sum(make_images: MakeImages, tiny_info: DatasetInfo) -> None:
    quiet = Run("run-1", tiny_info, PrivacyPlan(1e-6, 0.25, 1e-3, 1.0, 300, 1e-5))
    own = Client("clinic", make_images(1, labels=[1]))
    own.enroll(quiet)
    drawn = [bool(own.answer(query(quiet, t)).values.norm() > 1e-4) for t in range(300)]
    assert stats.binomtest(sum(drawn), 300, 0.25).pvalue > ALPHA
    assert stats.binomtest(sum(drawn), 300, 0.5).pvalue < ALPHA
    assert len(charges(own.ledger)) == 300  # empty batches are sent and charged


def test_enrolment_does_not_look_at_the_data(make_images: MakeImages, tiny_info: DatasetInfo, run: Run) -> None:
    """Does the client hold a label above 2?  Neither a reply nor a refusal may say."""
    plain = [TensorDataset(torch.zeros(3, *SHAPE), torch.tensor(labels)) for labels in ([0, 1, 2], [0, 1, 7])]
    for offered in (run, Run("run-1", tiny_info, None)):
        outcomes = []
        for data in plain:
            own = Client("clinic", data, Ledger(None, Budget(8.0, 1e-5)))  # knows no info, has a budget
            try:
                own.enroll(offered)
                outcomes.append("yes")
            except PrivateDistDDError as error:
                outcomes.append(f"{type(error).__name__} {error}")
        assert outcomes[0] == outcomes[1]
        assert outcomes[0] != "yes"


def test_bad_data_is_found_at_the_start_not_at_a_query(tiny_info: DatasetInfo) -> None:
    good = torch.zeros(2, *SHAPE)
    for images, labels in (
        (good, torch.tensor([0, 3])),
        (good, torch.tensor([0, -1])),
        (good, torch.tensor([0.0, 1.0])),
        (good + math.nan, torch.tensor([0, 1])),
        (good + math.inf, torch.tensor([0, 1])),
        (torch.zeros(2, 1, 4, 4), torch.tensor([0, 1])),
    ):
        with pytest.raises(DataError):
            Client("clinic", TensorDataset(images, labels), info=tiny_info)
    own = Client("clinic", Subset(TensorDataset(good, torch.tensor([0, 1])), []), info=tiny_info)
    own.enroll(Run("run-1", tiny_info, PLAN))


def test_a_large_delta_is_said_in_the_client_s_own_log_only(
    make_images: MakeImages, tiny_info: DatasetInfo, caplog: pytest.LogCaptureFixture
) -> None:
    plan = dataclasses.replace(PLAN, delta=0.4)
    key = SiteKey.for_this_process()
    replies = []
    for n in (2, 3):
        caplog.clear()
        with caplog.at_level(logging.DEBUG):
            replies.append(Client("clinic", make_images(n), key=key).enroll(Run("run-1", tiny_info, plan)).to_bytes())
        names = {record.name for record in caplog.records}
        assert names == (set() if n == 2 else {"private_distdd_client.clinic"})
    assert replies[0] == replies[1]


def test_repr_shows_no_sizes(make_images: MakeImages) -> None:
    own = Client("clinic", make_images(12345 % 97))
    assert repr(own) == str(own) == "Client('clinic')"


def test_an_answer_leaves_the_global_generators_alone(make_images: MakeImages, run: Run) -> None:
    own = Client("clinic", make_images(6))
    own.enroll(run)
    torch.manual_seed(3)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    own.answer(query(run))
    assert torch.equal(torch.get_rng_state(), state[0])
    assert np.array_equal(np.random.get_state()[1], state[1])


def test_reseeding_between_rounds_does_not_repeat_noise(make_images: MakeImages, run: Run) -> None:
    own = Client("clinic", make_images(0))
    own.enroll(run)
    values = []
    for t in range(3):
        torch.manual_seed(0), np.random.seed(0)
        values.append(own.answer(query(run, t)).values)
    assert not torch.equal(values[0], values[1])
    assert float((values[0] == values[1]).double().mean()) < 0.01
