"""Membership: the attack sees what is not protected, stays below the ceiling where it is, and rejects false claims."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from private_distdd.auditing.attacks import matched_filter, rates
from private_distdd.auditing.attacks.membership import membership_gradient
from private_distdd.auditing.attacks.synthetic import Distill, membership_synthetic
from private_distdd.auditing.report.records import table
from private_distdd.auditing.setting import Measure, Setting, library
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset
from private_distdd.errors import ConfigurationError, DataError
from private_distdd.methods.distdd import DistDD
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.mechanism import Measurement, SampledGaussianMechanism
from private_distdd.privacy.plan import Privacy
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

SPEC = ModelSpec("mlp", {"width": 32, "depth": 1})


@pytest.fixture(scope="module")
def pool(digits: ImageDataset) -> ImageDataset:
    return ImageDataset(digits.images[:40], digits.labels[:40], digits.info)


@pytest.fixture(scope="module")
def public() -> ImageDataset:
    test = load_dataset("digits")[1]
    return ImageDataset(test.images[:300], test.labels[:300], test.info)


@pytest.fixture
def background(digits: ImageDataset) -> ImageDataset:
    info = dataclasses.replace(digits.info, num_classes=2)
    held = torch.cat([torch.nonzero(digits.labels == label)[:3, 0] for label in (0, 1)])
    return ImageDataset(digits.images[held], digits.labels[held], info)


@pytest.fixture
def target(digits: ImageDataset) -> tuple[Tensor, int]:
    return digits.images[digits.labels == 1][5], 1


# How well two samples are told apart


def test_area_under_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.integers(5, size=30) + 1.0, rng.integers(5, size=41) + 0.0
    pairs = inside[:, None] - outside[None]
    naive = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    assert rates.area_under_curve(inside, outside) == pytest.approx(naive)
    assert rates.area_under_curve(-outside, -inside) == pytest.approx(naive)


def test_true_positive_rate_allows_so_many_false_ones() -> None:
    outside, inside = np.arange(100.0), np.arange(100.0) + 50
    assert rates.true_positive_rate(inside, outside, 0.01) == np.mean(inside > 98)
    assert rates.true_positive_rate(inside, outside, 0.001) == np.mean(inside > 99)
    assert rates.true_positive_rate(inside, outside, 0.5) == np.mean(inside > 49)


def test_roc_reads_as_the_rates_do() -> None:
    rng = np.random.default_rng(0)
    inside, outside = rng.normal(1, 1, 500), rng.normal(0, 1, 400)
    curve = TradeoffCurve([SampledGaussian(1.0, 1.0)])
    found = rates.roc(inside, outside, curve)
    assert found["attack"][0][0] == pytest.approx(1 / 400)
    assert found["attack"][-1] == found["ceiling"][-1] == (1, 1)
    for (rate, seen), (same, allowed) in zip(found["attack"][:-1], found["ceiling"][:-1], strict=True):
        assert rate == same
        assert seen == pytest.approx(rates.true_positive_rate(inside, outside, rate))
        assert allowed == rates.ceiling(curve, rate)
    assert {value for _, value in rates.roc(inside, outside, None)["ceiling"]} == {1}


def test_ceiling_is_that_of_the_gaussian() -> None:
    curve = TradeoffCurve([SampledGaussian(1.0, 1.0)])
    assert rates.ceiling(curve, 0.01) == pytest.approx(0.0924, abs=1e-4)  # Phi(Phi^-1(.01) + 1)
    assert rates.ceiling(None, 0.01) == 1


@pytest.mark.parametrize("bad", [[math.nan] * 30, [1.0] * 3, [[1.0] * 30]])
def test_scores_of_no_use_are_refused(bad: list[float]) -> None:
    with pytest.raises(DataError):
        rates.area_under_curve(bad, np.arange(30.0))
    with pytest.raises(DataError):
        rates.true_positive_rate(np.arange(30.0), bad, 0.01)
    with pytest.raises(DataError, match="equal"):
        rates.area_under_curve([1.0] * 30, [1.0] * 30)
    with pytest.raises(ConfigurationError):
        rates.true_positive_rate(np.arange(30.0), np.arange(30.0), 1.0)


def test_matched_filter_is_the_inverse_covariance() -> None:
    generator = torch.Generator().manual_seed(0)
    rows, background = (torch.randn(n, 6, dtype=torch.float64, generator=generator) for n in (3, 4))
    covariance = background.T @ background + 0.25 * torch.eye(6, dtype=torch.float64)
    expected = rows @ torch.linalg.inv(covariance)
    expected /= (expected * rows).sum(dim=1, keepdim=True).sqrt()
    torch.testing.assert_close(matched_filter.matched(rows, background, 0.5), expected)


# Messages


def test_without_privacy_members_are_told_and_centring_matters(pool: ImageDataset, public: ImageDataset) -> None:
    record = membership_gradient(pool, public, SPEC, None, 150)
    plain = membership_gradient(pool, public, SPEC, None, 150, centred=False)
    assert record.figures["AUC"] > 0.87
    assert record.figures["AUC"] > plain.figures["AUC"] + 0.05
    assert dict(record.lower)[1e-5] > 0.5
    assert not record.rejected  # nothing was claimed
    assert all(math.isinf(high) for _, high in record.upper)


def test_uncentred_scores_see_no_more_than_how_many_members_there_are(
    digits: ImageDataset, public: ImageDataset
) -> None:
    """With exactly half of each class held, the plain inner product is next to blind, and the matched filter is not."""
    pool = ImageDataset(digits.images[:400], digits.labels[:400], digits.info)
    run = Run("audit", pool.info, None)
    areas = []
    for centred in (True, False):
        network = matched_filter.Network(SPEC, 0, pool, public, None, centred)
        scores, members = [], np.zeros((5, 400), dtype=bool)
        for trial, held in enumerate(members):
            rng = np.random.default_rng(trial)
            for label in range(10):
                alike = np.flatnonzero(pool.labels.numpy() == label)
                held[rng.permutation(alike)[: len(alike) // 2]] = True
            data = ImageDataset(pool.images[held], pool.labels[held], pool.info)
            client = Client("audited", data, allow_without_privacy=True)
            client.enroll(run)
            scores.append(network.scores(client.answer(network.question.query(run, 0))))
        areas.append(rates.area_under_curve(np.stack(scores)[members], np.stack(scores)[~members]))
    assert areas[0] > 0.68
    assert 0.49 < areas[1] < 0.56


def test_features_that_never_vary_are_passed_over(background: ImageDataset, target: tuple[Tensor, int]) -> None:
    def with_the_target(images: Tensor, labels: Tensor, seed: int) -> Tensor:
        other = torch.full_like(images[:1], float(np.random.default_rng(seed).normal(len(images), 0.1)))
        return torch.cat([target[0][None], other])  # the largest cosine and the smallest distance never change

    record = membership_synthetic(with_the_target, background, target, None, 40)
    assert record.figures["AUC"] == 1


def test_with_privacy_members_stay_below_the_ceiling(pool: ImageDataset, public: ImageDataset) -> None:
    record = membership_gradient(pool, public, SPEC, Setting(noise_multiplier=2.0, divisor=7.0, max_grad_norm=0.5), 150)
    assert not record.rejected
    assert record.figures["TPR at 1 % FPR"] < record.figures["ceiling at 1 % FPR"]
    assert 0.5 < record.figures["AUC"] < 0.64  # Phi(mu / sqrt(2)) at mu = 1 / 2
    assert dict(record.lower)[1e-5] < dict(record.upper)[1e-5]
    json.dumps(record.to_json(), allow_nan=False)
    assert "membership_gradient" in table([record])


def test_several_sampled_messages_are_charged_together(pool: ImageDataset, public: ImageDataset) -> None:
    setting = Setting(noise_multiplier=1.0, sample_rate=0.5, rounds=2)
    record = membership_gradient(pool, public, SPEC, setting, 40)
    assert not record.rejected
    assert dict(record.upper)[1e-5] == pytest.approx(setting.curve().epsilon(1e-5))


def test_messages_without_noise_are_rejected(
    pool: ImageDataset, public: ImageDataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    right = SampledGaussianMechanism.begin

    def quiet(self: SampledGaussianMechanism, *arguments) -> Measurement:  # type: ignore[no-untyped-def]
        loud = dataclasses.replace(self, noise_multiplier=1e-3)
        return right(loud, *arguments)

    monkeypatch.setattr(SampledGaussianMechanism, "begin", quiet)
    assert membership_gradient(pool, public, SPEC, Setting(noise_multiplier=4.0), 150).rejected


def test_pools_that_cannot_be_attacked_are_refused(pool: ImageDataset, public: ImageDataset) -> None:
    with pytest.raises(ConfigurationError):
        membership_gradient(pool, public, SPEC, None, 39)
    with pytest.raises(ConfigurationError, match="mechanism"):
        membership_gradient(pool, public, SPEC, Setting(mechanism=lambda *constants: library(*constants)))
    zeros = public.labels == 0
    with pytest.raises(DataError, match="no public examples"):
        membership_gradient(pool, ImageDataset(public.images[zeros], public.labels[zeros], public.info), SPEC, None)
    with pytest.raises(DataError, match="pool"):
        membership_gradient(ImageDataset(pool.images[:1], pool.labels[:1], pool.info), public, SPEC, None)
    other = dataclasses.replace(public.info, name="other")
    with pytest.raises(DataError, match="public set"):
        membership_gradient(pool, ImageDataset(public.images, public.labels, other), SPEC, None)


# The synthetic set


def noisy_sum(sigma: float, starts_from_real: bool = False) -> Distill:
    """S in one release of the mechanism: class sums of images clipped to norm 1, and, as a fault, one real image."""

    def distill(images: Tensor, labels: Tensor, seed: int) -> Tensor:
        mechanism: Measure = library(sigma, 1.0, 1.0, 1.0)
        dimension = images[0].numel()
        sums = mechanism(
            len(images),
            lambda batch: [(images[batch].flatten(1), labels[batch])],
            2,
            dimension,
            InsecureRandomness(seed),
        )
        start = torch.zeros(2, *images.shape[1:])
        if starts_from_real:
            rng = np.random.default_rng(seed)
            start = torch.stack([images[int(rng.choice(torch.nonzero(labels == c)[:, 0].numpy()))] for c in (0, 1)])
        return start + 0.1 * sums.reshape(start.shape)

    return distill


def test_a_start_from_real_images_leaks_past_the_accountant(
    background: ImageDataset, target: tuple[Tensor, int]
) -> None:
    events = [SampledGaussian(4.0, 1.0)]
    record = membership_synthetic(noisy_sum(4.0, starts_from_real=True), background, target, events, 600)
    assert record.figures["TPR at 1 % FPR"] >= 0.10
    assert record.figures["TPR at 1 % FPR"] > 3 * record.figures["ceiling at 1 % FPR"]
    assert record.rejected
    sound = membership_synthetic(noisy_sum(4.0), background, target, events, 600)
    assert not sound.rejected
    assert sound.figures["TPR at 1 % FPR"] < 0.10
    assert dict(sound.lower)[1e-5] < dict(sound.upper)[1e-5]
    json.dumps(sound.to_json(), allow_nan=False)


def test_a_claim_of_too_much_noise_is_rejected(background: ImageDataset, target: tuple[Tensor, int]) -> None:
    right = membership_synthetic(noisy_sum(0.3), background, target, [SampledGaussian(0.3, 1.0)], 400)
    wrong = membership_synthetic(noisy_sum(0.3), background, target, [SampledGaussian(3.0, 1.0)], 400)
    assert not right.rejected
    assert wrong.rejected
    assert right.figures["AUC"] == wrong.figures["AUC"] > 0.8


def test_alarms_on_the_right_mechanism_are_rare(background: ImageDataset, target: tuple[Tensor, int]) -> None:
    # Each fires with probability at most 1e-4: two or more of 30 have probability 5e-6.
    events = [SampledGaussian(1.0, 1.0)]
    alarms = [membership_synthetic(noisy_sum(1.0), background, target, events, 40, seed).rejected for seed in range(30)]
    assert sum(alarms) <= 1


def test_without_a_claim_nothing_is_rejected(background: ImageDataset, target: tuple[Tensor, int]) -> None:
    record = membership_synthetic(noisy_sum(1e-3), background, target, None, 40)
    assert record.figures["AUC"] == 1
    assert not record.rejected


@pytest.mark.parametrize(
    "answer",
    [torch.zeros(0, 1, 8, 8), torch.full((1, 1, 8, 8), math.nan), torch.zeros(2, 8, 8), torch.zeros(2, 1, 4, 4), None],
)
def test_what_is_no_synthetic_set_is_refused(
    background: ImageDataset, target: tuple[Tensor, int], answer: Tensor
) -> None:
    with pytest.raises(DataError):
        membership_synthetic(lambda *_: answer, background, target, None, 40)


def test_attacks_without_footing_are_refused(background: ImageDataset, target: tuple[Tensor, int]) -> None:
    with pytest.raises(DataError, match="equal"):
        membership_synthetic(lambda *_: torch.ones(1, 1, 8, 8), background, target, None, 40)
    with pytest.raises(ConfigurationError):
        membership_synthetic(noisy_sum(1.0), background, target, None, 39)
    with pytest.raises(ConfigurationError, match="noise"):
        membership_synthetic(noisy_sum(1.0), background, target, [], 40)
    with pytest.raises(DataError):
        membership_synthetic(noisy_sum(1.0), background, (target[0], 7), None, 40)
    empty = ImageDataset(background.images[:0], background.labels[:0], background.info)
    with pytest.raises(DataError, match="empty"):
        membership_synthetic(noisy_sum(1.0), empty, target, None, 40)


def small_distdd(background: ImageDataset, privacy: Privacy) -> Distill:
    method = DistDD(
        ipc=1, rounds=2, model="mlp", model_args={"width": 8, "depth": 1}, matching_steps=2, privacy=privacy
    )

    def distill(images: Tensor, labels: Tensor, seed: int) -> Tensor:
        client = Client("audited", ImageDataset(images, labels, background.info))
        return dataclasses.replace(method, seed=seed).fit([client]).dataset.images

    return distill


@pytest.mark.parametrize("trials", [40, pytest.param(1000, marks=pytest.mark.slow)])
def test_distdd_keeps_its_claim(background: ImageDataset, target: tuple[Tensor, int], trials: int) -> None:
    privacy = Privacy(noise_multiplier=2.0)
    distill = small_distdd(background, privacy)
    record = membership_synthetic(distill, background, target, [privacy.plan(2).schedule], trials)
    assert not record.rejected
    if trials >= 1000:
        assert record.figures["TPR at 1 % FPR"] < 0.10
        assert dict(record.lower)[1e-5] < dict(record.upper)[1e-5]
