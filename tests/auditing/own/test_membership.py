"""The owner's own examples: a planted leak is seen, a private release is not accused, a bad comparison is named."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from private_distdd.auditing.attacks import rates
from private_distdd.auditing.attacks.guesses import refuted
from private_distdd.auditing.bounds import clopper_pearson
from private_distdd.auditing.own import membership
from private_distdd.auditing.own.examples import Compared, OwnExamples
from private_distdd.auditing.own.membership import OwnAudit, own_membership
from private_distdd.auditing.own.report import own_report, write_own_report
from private_distdd.auditing.own.scores import blind, confidence, nearest
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset
from private_distdd.errors import DataError
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.tradeoff import TradeoffCurve
from private_distdd.release.contents import Contents
from private_distdd.synthetic.dataset import SyntheticDataset

IPC = 4
CLAIM = TradeoffCurve([SampledGaussian(2.0, 1.0)])  # mu = 1/2


def named(images: torch.Tensor, labels: torch.Tensor, info: Any, word: str) -> OwnExamples:
    return OwnExamples(ImageDataset(images, labels, info), tuple(f"{word} {i}" for i in range(len(labels))))


def members_of(digits: ImageDataset, count: int, others: bool = False) -> torch.Tensor:
    """Places of so many at random, or of the others: the file is in the order of its writers."""
    order = torch.randperm(len(digits), generator=torch.Generator().manual_seed(0))
    return order[count:] if others else order[:count]


@pytest.fixture(scope="module")
def compared(digits: ImageDataset) -> Compared:
    test = load_dataset("digits")[1]
    own = members_of(digits, 400)
    members = named(digits.images[own], digits.labels[own], digits.info, "train")
    return Compared.of(members, named(test.images, test.labels, test.info, "test"))


def made_of(images: torch.Tensor, info: Any) -> Contents:
    labels = torch.arange(10).repeat_interleave(IPC)
    return Contents(SyntheticDataset(images, labels, info), {}, {})


def of_members(compared: Compared, noise: float) -> Contents:
    """S from the first paired members of each class, blurred."""
    own = compared.members.only(compared.pairs[:, 0]).dataset
    images = torch.cat([own.images[own.labels == label][:IPC] for label in range(10)])
    drawn = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    return made_of(images + noise * drawn, own.info)


def of_strangers(digits: ImageDataset) -> Contents:
    rest = members_of(digits, 400, others=True)
    images, labels = digits.images[rest], digits.labels[rest]
    return made_of(torch.cat([images[labels == label][:IPC] for label in range(10)]), digits.info)


def looked(release: Contents, compared: Compared, curve: TradeoffCurve | None = CLAIM, **given: Any) -> OwnAudit:
    return own_membership(release, compared, curve, networks=1, epochs=3, **given)


def test_examples_that_were_never_there_are_not_told_apart(digits: ImageDataset, compared: Compared) -> None:
    found = looked(of_strangers(digits), compared)
    assert not found.exposes
    assert not found.rejected
    assert found.verdict.startswith("Not told apart")
    assert found.copies == (0, 0)
    assert [record.audit for record in found.records] == ["own_nearest", "own_trained"]
    for record in found.records:
        assert record.figures["AUC low"] < 0.5 < record.figures["AUC high"]
        assert record.figures["TPR at 1 % FPR low"] <= 0.05


def test_copies_are_a_leak_and_stand_first(compared: Compared) -> None:
    found = looked(of_members(compared, 0.0), compared)
    assert found.verdict.startswith("LEAK: S holds 40 of these")
    assert found.copies == (10 * IPC, 0)
    assert all(one.copied and one.distance == 0 for one in found.exposed)
    place = {name: i for i, name in enumerate(compared.members.names)}
    synthetic = of_members(compared, 0.0).dataset
    for one in found.exposed:
        own = compared.members.dataset[place[one.name]][0]
        assert torch.equal(own, synthetic[one.image or 0][0])


def test_blurred_copies_are_told_apart_and_refute_a_small_claim(compared: Compared) -> None:
    strong = TradeoffCurve([SampledGaussian(20.0, 1.0)])
    found = looked(of_members(compared, 0.2), compared, strong)
    assert found.copies == (0, 0)
    assert found.records[0].findings[0] == "of the 32 examples that score highest, 32 were contributed"
    assert found.rejected
    assert found.verdict.startswith("REFUTED")
    lower = dict(found.records[0].lower)[1e-5]
    assert lower > dict(found.records[0].upper)[1e-5] > 0
    weak = TradeoffCurve([SampledGaussian(0.05, 1.0)])
    assert looked(of_members(compared, 0.2), compared, weak).verdict.startswith("EXPOSED")
    assert "claims nothing" in looked(of_members(compared, 0.2), compared, None).verdict


def test_a_network_that_knows_them_by_heart_is_told_apart(compared: Compared, digits: ImageDataset) -> None:
    own = compared.members.dataset
    spec = ModelSpec("mlp", {"width": 64, "depth": 1})
    model = spec.build(own.info.shape, 10, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    # Nobody learns random labels from digits: a network that knows them knows the examples.
    drawn = np.random.default_rng(0).integers(10, size=2000)
    wrong = torch.from_numpy(drawn[: len(own)])
    others = compared.others.dataset.images
    spoiled = Compared.of(
        named(own.images, wrong, own.info, "train"),
        named(others, torch.from_numpy(drawn[len(own) :][: len(others)]), own.info, "test"),
    )
    for _ in range(100):
        optimizer.zero_grad()
        torch.autograd.backward(torch.nn.functional.cross_entropy(model(own.images), wrong))
        optimizer.step()
    teacher = TrainedNetwork(spec, model.state_dict(), own.info)
    found = looked(Contents(None, {}, {}, teacher=teacher), spoiled)
    assert [record.audit for record in found.records] == ["own_classifier"]
    assert found.told_apart
    assert found.exposed[0].image is None
    assert own_report(found, "run", "00")["exposed"][0]["distance"] is None


def test_a_network_that_says_the_same_of_everything_tells_nothing(compared: Compared) -> None:
    info, spec = compared.members.dataset.info, ModelSpec("mlp")
    state = {name: torch.zeros_like(value) for name, value in spec.build(info.shape, 10, 0).state_dict().items()}
    found = looked(Contents(None, {}, {}, TrainedNetwork(spec, state, info)), compared)
    assert not found.records
    assert not found.exposes
    assert own_report(found, "run", "0" * 64)["exposed"]


def test_sets_that_differ_by_themselves_are_called_unclear(compared: Compared) -> None:
    others = compared.others.dataset
    darker = OwnExamples(ImageDataset(others.images - 0.7, others.labels, others.info), compared.others.names)
    found = looked(of_members(compared, 0.2), Compared(compared.members, darker, compared.pairs, 0))
    assert found.told_apart
    assert not found.comparable
    assert not found.rejected
    assert found.verdict.startswith("UNCLEAR")


def test_the_control_sees_nothing_where_there_is_nothing(compared: Compared) -> None:
    members, others = (
        own.only(compared.pairs[:, i]).dataset for i, own in enumerate((compared.members, compared.others))
    )
    area = rates.area_under_curve(*blind(members, others))
    assert rates.area_interval(area, len(members), len(others), 0.99)[0] <= 0.5


# Members and others


def test_pairs_are_of_one_class_and_of_each_as_many_as_there_are(compared: Compared) -> None:
    own, others = compared.members.dataset.labels.numpy(), compared.others.dataset.labels.numpy()
    first, second = compared.pairs.T
    assert np.array_equal(own[first], others[second])
    assert len(set(first)) == len(set(second)) == len(first)
    counts = np.minimum(np.bincount(own, minlength=10), np.bincount(others, minlength=10))
    assert np.array_equal(np.bincount(own[first], minlength=10), counts)


def test_what_is_in_both_is_left_out(digits: ImageDataset) -> None:
    members = named(digits.images[:200], digits.labels[:200], digits.info, "a")
    others = named(digits.images[150:400], digits.labels[150:400], digits.info, "b")
    found = Compared.of(members, others)
    assert found.in_both == 100
    assert found.members.names == tuple(f"a {i}" for i in range(150))
    assert found.others.names == tuple(f"b {i}" for i in range(50, 250))
    with pytest.raises(DataError, match="after 400 that were in both"):
        Compared.of(members, members)


# Scores


def test_nearest_is_the_nearest_and_a_copy_is_at_zero(digits: ImageDataset) -> None:
    synthetic = torch.cat([digits.images[5:6] + 0.001, digits.images[7:9]])
    few = ImageDataset(digits.images[:10], digits.labels[:10], digits.info)
    found = nearest(few, synthetic)
    naive = (few.images[:, None] - synthetic[None]).flatten(2).to(torch.float64).square().mean(dim=2).sqrt()
    assert np.array_equal(found.place, naive.argmin(dim=1).numpy())
    assert found.distance == pytest.approx(naive.amin(dim=1).numpy())
    assert found.distance[7] == found.distance[8] == 0
    assert found.copied.tolist() == [i in (5, 7, 8) for i in range(10)]  # .001 is less than a grey level


def test_confidence_is_the_logit_of_the_own_class(digits: ImageDataset) -> None:
    model = ModelSpec("mlp").build(digits.info.shape, 10, seed=0)
    few = ImageDataset(digits.images[:10], digits.labels[:10], digits.info)
    shares = model(few.images).softmax(dim=1).detach().numpy()[np.arange(10), few.labels.numpy()]
    assert confidence(model, few) == pytest.approx(np.log(shares / (1 - shares)), abs=1e-5)


# Intervals and tests


def test_intervals_are_those_of_scipy() -> None:
    for hits, trials in ((0, 30), (3, 40), (40, 40)):
        exact = stats.binomtest(hits, trials).proportion_ci(0.95, method="exact")
        assert clopper_pearson(hits, trials, 0.95) == pytest.approx((exact.low, exact.high), abs=1e-7)
        wilson = stats.binomtest(hits, trials).proportion_ci(0.95, method="wilson")
        found = rates.area_interval(hits / trials, trials + 5, trials, 0.95)
        assert found == pytest.approx((wilson.low, wilson.high), abs=1e-9)


def test_the_largest_area_is_that_of_the_gaussian() -> None:
    exact = float(stats.norm.cdf(0.5 / math.sqrt(2)))
    assert exact <= rates.most_area(CLAIM) <= exact + 1e-3
    assert rates.most_area(None) == 1


@pytest.mark.parametrize(("guesses", "total"), [(32, 400), (100, 400), (200, 400)])
def test_beyond_chance_is_the_binomial_test(guesses: int, total: int) -> None:
    for right in range(guesses // 2, guesses + 1):
        chance = stats.binomtest(right, guesses, 0.5, alternative="greater").pvalue
        if abs(math.log(chance / 1e-4)) > 0.2:
            assert refuted(right, guesses, total, lambda a: max(0.0, 1 - a), 1e-4) == (chance < 1e-4)


def test_ties_help_nobody_and_the_tests_cover_all_pairs() -> None:
    ones = np.ones(100)
    assert membership._right(ones, ones, (32, 100)) == [0, 0]
    assert membership._right(ones + 1, ones, (32, 100)) == [32, 100]
    assert membership._right(ones, ones + 1, (32, 100, 150)) == [0, 0, 50]
    assert membership._guesses(20) == [20]
    assert membership._guesses(445) == [32, 64, 128, 256, 445]


def test_the_owner_alone_may_read_the_report(digits: ImageDataset, compared: Compared, tmp_path: Path) -> None:
    content = own_report(looked(of_strangers(digits), compared), "<b>run</b>", "00" * 32)
    folder = tmp_path / "deep" / "report"
    write_own_report(content, folder)
    assert folder.stat().st_mode & 0o777 == 0o700
    for name in ("own-audit.json", "own-audit.html"):
        assert (folder / name).stat().st_mode & 0o777 == 0o600
    page = (folder / "own-audit.html").read_text()
    assert "FOR THE OWNER OF THE DATA ALONE" in page
    assert "<b>run</b>" not in page
    assert "&lt;b&gt;run&lt;/b&gt;" in page
    assert "Messages were not looked at" in page
