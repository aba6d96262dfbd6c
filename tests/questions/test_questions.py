"""The statistic "class_embeddings": sums that do not see how data are split, bounded by 1, charged once, noisy."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize, stats
from torch import Tensor

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, QueryRefusedError
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.micro_batch import micro_batches, padded
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.accountants import epsilon
from private_distdd.privacy.events import NotPrivate, SampledGaussian
from private_distdd.privacy.ledger import Budget, Ledger
from private_distdd.privacy.mechanism import LATTICE, lattice_sums
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.questions import places
from private_distdd.questions.class_embeddings import ClassEmbeddings, EmbeddingSums
from private_distdd.questions.register import PRIVATE_QUESTIONS as PRIVATE
from private_distdd.questions.register import QUESTIONS, private_question
from private_distdd.site.client import Client
from private_distdd.wire.message import Message
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

ALPHA = 1e-7
INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
SPEC = EmbeddingSpec(ModelSpec("mlp", {"width": 16, "depth": 1}), (11, 12, 13), 2, 0.5, 8, True)
CONVOLVED = dataclasses.replace(SPEC, model=ModelSpec("convnet", {"width": 8, "depth": 1}), bandwidth=0.2)
PRIVATE_QUESTIONS = {spec.model.name: EmbeddingSums(spec.to_json(), {}, INFO, "cpu") for spec in (SPEC, CONVOLVED)}
MakeImages = Callable[..., ImageDataset]


def data(n: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((n, *INFO.shape), generator=generator)
    return images, torch.randint(INFO.num_classes, (n,), generator=generator)


def lattice(question: EmbeddingSums, images: Tensor, labels: Tensor) -> Tensor:
    """The pre-noise sum, as `Client._private` has it made: by class, in micro-batches."""
    order = labels.argsort(stable=True)
    parts = torch.split(order, 64)
    batches = (
        (question.rows(batch, own), question.groups(own[:count]))
        for part in parts
        for batch, own, count in micro_batches(images[part], labels[part])
    )
    return lattice_sums(batches, question.num_groups, question.dimension, 1.0)


statistics = st.sampled_from(sorted(PRIVATE_QUESTIONS)).map(PRIVATE_QUESTIONS.__getitem__)


# Sums


@given(statistics, st.integers(0, 2**16), st.integers(1, 150), st.integers(1, 5), st.sampled_from([0.05, 1.0, 100.0]))
@settings(max_examples=25)
def test_sums_do_not_depend_on_the_split(
    question: EmbeddingSums, seed: int, n: int, clients: int, alpha: float
) -> None:
    images, labels = data(n, seed)
    rng = np.random.default_rng(seed)
    shares = np.stack([rng.dirichlet(np.full(clients, alpha)) for _ in range(INFO.num_classes)])
    owner = torch.tensor([rng.choice(clients, p=shares[c]) for c in labels.tolist()])
    whole, counts = question.plain(images, labels)
    parts = [question.plain(images[owner == i], labels[owner == i]) for i in range(clients)]
    assert torch.equal(sum((c for _, c in parts), torch.zeros(3, dtype=torch.int64)), counts)
    total = sum((v.double() for v, _ in parts), torch.zeros(1).double())
    assert torch.allclose(total, whole.double(), atol=1e-6 * n, rtol=1e-6)
    exact = [lattice(question, images[owner == i], labels[owner == i]) for i in range(clients)]
    assert torch.equal(sum(exact, torch.zeros(1, dtype=torch.int64)), lattice(question, images, labels))


@given(statistics, st.integers(0, 2**16), st.integers(1, 150))
@settings(max_examples=25)
def test_the_order_of_examples_changes_no_bit(question: EmbeddingSums, seed: int, n: int) -> None:
    images, labels = data(n, seed)
    order = torch.from_numpy(np.random.default_rng(seed).permutation(n))
    assert torch.equal(lattice(question, images, labels), lattice(question, images[order], labels[order]))
    moved = labels.roll(1)
    if not torch.equal(moved, labels):
        assert not torch.equal(lattice(question, images, labels), lattice(question, images, moved))


def test_plain_sums_are_the_rows_added_up() -> None:
    question, (images, labels) = PRIVATE_QUESTIONS["mlp"], data(100, 3)
    values, counts = question.plain(images, labels)
    expected = torch.zeros(3, question.dimension, dtype=torch.float64)
    for image, label in zip(images, labels.tolist(), strict=True):
        row = question.rows(*padded(image[None], torch.tensor([label])))
        expected[label] += row[0].double()
    assert torch.allclose(values.double(), expected, atol=1e-5)
    assert torch.allclose(values[:, -1], counts * 0.2, atol=1e-4)
    nothing, none = question.plain(*data(0, 0))
    assert not bool(nothing.any())
    assert none.tolist() == [0, 0, 0]


# Sensitivity

EXTREME = st.sampled_from([1.0, 1e-38, 1e4, 1e15, 1e20, -1e30, 3.4e38, math.inf, -math.inf, math.nan, 0.0])
SHAPES = st.sampled_from(["noise", "constant", "one pixel", "checkered", "black"])


def adversarial(kind: str, scale: float, seed: int) -> Tensor:
    image = torch.zeros(INFO.shape)
    if kind == "noise":
        image = data(1, seed)[0][0].clamp(-1, 1)
    elif kind == "constant":
        image += 1
    elif kind == "one pixel":
        image[0, seed % 8, seed // 8 % 8] = 1
    elif kind == "checkered":
        image[0, ::2, ::2], image[0, 1::2, 1::2] = 1, -1
    else:
        image -= 1
    return image * scale


@given(statistics, st.integers(0, 2**16), st.integers(0, 130), st.integers(0, 2), SHAPES, EXTREME, st.data())
@settings(max_examples=80)
def test_an_example_moves_one_class_s_sum_by_at_most_1(
    question: EmbeddingSums, seed: int, n: int, label: int, kind: str, scale: float, choose: st.DataObject
) -> None:
    """In L2 over all networks and the count together, whoever rides along, in exact integers."""
    images, labels = data(n, seed)
    if n and choose.draw(st.booleans()):  # company that is no better
        images[choose.draw(st.integers(0, n - 1))] = adversarial(kind, -scale, seed)
    place = choose.draw(st.integers(0, n))
    image = adversarial(kind, scale, seed)[None]
    more = torch.cat([images[:place], image, images[place:]])
    more_labels = torch.cat([labels[:place], torch.tensor([label]), labels[place:]])
    moved = lattice(question, more, more_labels) - lattice(question, images, labels)
    squares = [sum(k * k for k in row) for row in moved.tolist()]  # Python's own integers: nothing can wrap
    assert squares[label] <= LATTICE**2
    assert [square for c, square in enumerate(squares) if c != label] == [0, 0]
    if math.isfinite(scale):  # and the bound is used, so a smaller one would be wrong
        assert squares[label] > (0.999 * LATTICE) ** 2
        assert moved[label, -1] == pytest.approx(0.2 * LATTICE, rel=1e-4)
    else:
        assert squares[label] in (0, moved[label].square().sum())


def test_all_networks_together_share_the_norm() -> None:
    """More networks, same sensitivity: K networks are not K times as dear."""
    image, label = data(1, 0)
    for count in (1, 2, 9):
        spec = dataclasses.replace(SPEC, seeds=tuple(range(count)))
        moved = lattice(EmbeddingSums(spec.to_json(), {}, INFO, "cpu"), image, label).double() / LATTICE
        assert float(moved.norm()) == pytest.approx(1, abs=1e-3)
        parts = moved[label[0], :-1].reshape(count, 16).norm(dim=1)
        assert torch.allclose(parts, torch.full((count,), math.sqrt(0.96 / count)).double(), atol=1e-3)
        same = dataclasses.replace(SPEC, seeds=(4,) * count)  # a hostile server asks one network again and again
        moved = lattice(EmbeddingSums(same.to_json(), {}, INFO, "cpu"), image, label).double() / LATTICE
        assert float(moved.norm()) <= 1


# Through a client


def asked(run: Run, server_round: int = 0, **changes: Any) -> Query:
    values: dict[str, Any] = {"question": "class_embeddings", "arguments": SPEC.to_json(), "tensors": {}}
    return Query(run.run_id, server_round, plan=run.plan, **(values | changes))


def enrolled(dataset: ImageDataset, run: Run, **arguments: Any) -> Client:
    client = Client("clinic", dataset, **arguments)
    client.enroll(run)
    return client


@pytest.mark.parametrize(("sigma", "divisor", "sample_rate"), [(2.0, 4.0, 1.0), (0.7, 1.0, 0.3)])
def test_the_noise_of_a_message(make_images: MakeImages, sigma: float, divisor: float, sample_rate: float) -> None:
    run = Run("run-1", INFO, PrivacyPlan(sigma, sample_rate, 1.0, divisor, 20, 1e-5))
    noise, arguments = [], dataclasses.replace(SPEC, frequencies=64).to_json()
    for seed in range(2):
        client = enrolled(make_images(0), run, randomness=InsecureRandomness(seed))
        noise += [client.answer(asked(run, t, arguments=arguments)).values for t in range(10)]
    z = torch.stack(noise).double().numpy() * divisor
    for wrong, right in ((1.0, True), (1.05, False), (1 / 1.05, False), (divisor, divisor == 1.0)):
        total = float(np.sum((z / (sigma * wrong)) ** 2))
        p = 2 * min(stats.chi2.cdf(total, z.size), stats.chi2.sf(total, z.size))
        assert bool(p > ALPHA) is right
    assert stats.kstest(z.ravel() / sigma, "norm").pvalue > ALPHA
    assert stats.kstest(z.ravel() / sigma * 1.1, "norm").pvalue < ALPHA
    for a, b in ((z[:10], z[10:]), (z[1:], z[:-1]), (z[:, 0], z[:, 1]), (z[..., 1:], z[..., :-1])):
        assert stats.pearsonr(a.ravel(), b.ravel()).pvalue > ALPHA


def test_the_signal_of_a_message_is_the_sum_over_the_divisor(make_images: MakeImages) -> None:
    run = Run("run-1", INFO, PrivacyPlan(1e-6, 1.0, 1.0, 40.0, 1, 1e-5))
    dataset = make_images(70)
    found = enrolled(dataset, run).answer(asked(run)).values
    expected, counts = PRIVATE_QUESTIONS["mlp"].plain(dataset.images, dataset.labels)
    assert torch.allclose(found, expected / 40, atol=1e-4)
    assert torch.allclose(found[:, -1] * 40 / 0.2, counts.float(), atol=0.01)
    halved = Run("run-2", INFO, PrivacyPlan(1e-6, 1.0, 0.5, 40.0, 1, 1e-5))  # another C clips: never more than C
    found = enrolled(dataset, halved).answer(asked(halved)).values
    assert torch.allclose(found, expected / 80, atol=1e-4)


def gaussian_epsilon(sigma: float, delta: float) -> float:
    """Balle and Wang 2018, theorem 8, solved by bisection."""

    def excess(eps: float) -> float:
        a, b = 1 / (2 * sigma), eps * sigma
        return float(stats.norm.cdf(a - b) - math.exp(eps) * stats.norm.cdf(-a - b)) - delta

    return float(optimize.brentq(excess, 1e-9, 60))


@pytest.mark.parametrize("sample_rate", [1.0, 0.25])
def test_an_answer_is_one_event(make_images: MakeImages, sample_rate: float) -> None:
    run = Run("run-1", INFO, PrivacyPlan(3.0, sample_rate, 1.0, 1.0, 1, 1e-5))
    client = enrolled(make_images(12), run)
    message = client.answer(asked(run))
    assert list(client.ledger.events) == [SampledGaussian(3.0, sample_rate, 1)]
    assert message.values.shape == (3, SPEC.dimension)
    assert message.counts is None
    assert Message.from_bytes(message.data).data == message.data
    assert client.answer(asked(run)).data == message.data  # a lost reply is repeated
    with pytest.raises(QueryRefusedError):
        client.answer(asked(run, 1))
    assert list(client.ledger.events) == [SampledGaussian(3.0, sample_rate, 1)]
    if sample_rate == 1:
        exact = gaussian_epsilon(3.0, 1e-5)
        assert epsilon(client.ledger.events, 1e-5, "gdp") == pytest.approx(exact, rel=1e-6)
        assert epsilon(client.ledger.events, 1e-5, "gdp") != pytest.approx(gaussian_epsilon(3.1, 1e-5), rel=1e-3)
        assert client.ledger.epsilon(1e-5) >= exact * (1 - 1e-9)


def test_without_privacy_the_sums_are_exact_and_charged(make_images: MakeImages) -> None:
    run, dataset = Run("run-1", INFO, None), make_images(12)
    client = enrolled(dataset, run, allow_without_privacy=True)
    message = client.answer(asked(run))
    expected, counts = PRIVATE_QUESTIONS["mlp"].plain(dataset.images, dataset.labels)
    assert message.counts is not None
    assert torch.equal(message.counts, counts)
    assert torch.equal(message.values, expected)
    assert list(client.ledger.events) == [NotPrivate()]
    careful = Client("clinic", dataset, Ledger(None, Budget(8.0, 1e-5)))
    with pytest.raises(QueryRefusedError):
        careful.enroll(run)


HOLDINGS: list[dict[str, Any]] = [
    {"n": 0},
    {"n": 1},
    {"n": 9, "labels": [2] * 9},
    {"n": 4, "labels": [0, 0, 2, 2]},
    {"n": 200},
]


def test_all_messages_have_one_size_and_all_classes(make_images: MakeImages) -> None:
    run, seen = Run("run-1", INFO, PrivacyPlan(2.0, 0.5, 1.0, 4.0, 1, 1e-5)), set()
    for holding in HOLDINGS:
        message = enrolled(make_images(**holding), run).answer(asked(run))
        assert bool((message.values != 0).any(dim=1).all())
        seen.add((len(message.data), message.values.shape, message.values.dtype, message.counts))
    assert len(seen) == 1


def test_extreme_images_cannot_make_a_client_fail(tiny_info: DatasetInfo) -> None:
    """A refusal that depends on the data would tell something about them."""
    kinds = ("noise", "constant", "one pixel", "checkered", "black")
    images = torch.stack([adversarial(k, s, 3) for k in kinds for s in (0.0, 1e20, -3e38, 1e-40)])
    dataset = ImageDataset(images, torch.arange(len(images)) % 3, tiny_info)
    for plan in (PrivacyPlan(2.0, 1.0, 1.0, 1.0, 1, 1e-5), None):
        run = Run("run-1", INFO, plan)
        message = enrolled(dataset, run, allow_without_privacy=True).answer(asked(run))
        assert bool(torch.isfinite(message.values).all())
        Message.from_bytes(message.data)


REFUSED: list[dict[str, Any]] = [
    {"tensors": {"weights": torch.zeros(3)}},
    {"arguments": {}},
    {"arguments": {**SPEC.to_json(), "code": "x"}},
    {"arguments": {**SPEC.to_json(), "pool": 3}},
    {"arguments": {**SPEC.to_json(), "seeds": []}},
    {"arguments": {**SPEC.to_json(), "frequencies": 0}},
    {"arguments": {**SPEC.to_json(), "bandwidth": 0}},
    {"arguments": {**SPEC.to_json(), "augment": 1}},
    {"arguments": {**SPEC.to_json(), "model": {"name": "no such", "arguments": {}}}},
    {"arguments": {**SPEC.to_json(), "model": {"name": "lenet", "arguments": {}}}},
    {"question": "class_embedding"},
]


@pytest.mark.parametrize("changes", REFUSED, ids=lambda changes: str(next(iter(changes.values()))))
def test_queries_that_are_refused_cost_nothing(make_images: MakeImages, changes: dict[str, Any]) -> None:
    run = Run("run-1", INFO, PrivacyPlan(2.0, 0.5, 1.0, 4.0, 1, 1e-5))
    client = enrolled(make_images(6), run)
    before = client.ledger.to_bytes()
    with pytest.raises((QueryRefusedError, ModelError, ConfigurationError)):
        client.answer(asked(run, **changes))
    assert client.ledger.to_bytes() == before
    client.answer(asked(run))


def test_what_exists_without_privacy_only_is_refused_with_it() -> None:
    assert set(PRIVATE) == {
        *("class_gradients", "class_gradients_at_seeds", "class_embeddings", "local_training", "local_trainings")
    }
    open_only = set(QUESTIONS) - set(PRIVATE)
    assert open_only == {"class_examples", "class_distillations", "class_counts"}
    for name in open_only:
        with pytest.raises(QueryRefusedError, match="with privacy"):
            private_question(name, {"counts": [1, 1, 1]}, {}, INFO, "cpu")
    built = private_question("class_embeddings", SPEC.to_json(), {}, INFO, "cpu")
    assert (built.num_groups, built.dimension) == (3, SPEC.dimension)


# A2, on the machine that it runs on


def test_a_network_whose_rows_depend_on_their_place_is_refused_before_anything_is_charged(
    monkeypatch: pytest.MonkeyPatch, make_images: MakeImages
) -> None:
    monkeypatch.setattr(places, "_places_alike", set())
    client = Client("c", dataset := make_images(9), Ledger(None, Budget(1.0, 1e-5)))
    plan = PrivacyPlan(10.0, 1.0, 1.0, 1.0, 2, delta=1e-5)
    run = Run("places", dataset.info, plan)
    client.enroll(run)
    spec = dataclasses.replace(SPEC, pool=1)
    query = Query(run.run_id, 0, "class_embeddings", spec.to_json(), {}, plan)
    honest = ClassEmbeddings.rows

    def misplaced(self: ClassEmbeddings, images: Tensor) -> Tensor:
        rows = honest(self, images)
        rows[40, 0] = torch.nextafter(rows[40, 0], torch.tensor(2.0))  # one bit, in one place
        return rows

    with monkeypatch.context() as broken:
        broken.setattr(ClassEmbeddings, "rows", misplaced)
        with pytest.raises(ModelError, match="place in the batch"):
            client.answer(query)
    assert client.ledger.events == ()
    client.answer(query)
    assert client.ledger.events == (plan.event,)


class Apart:
    """A question that computes a micro-batch in parts of two, whose second example may have other bits."""

    together = 2

    def __init__(self, odd: float) -> None:
        self.odd, self.asked = odd, 0

    def public(self) -> Apart:
        return self

    def rows(self, images: Tensor, labels: Tensor) -> Tensor:
        self.asked += len(images)
        rows = images.flatten(1).clone()
        rows[1::2] *= 1 + self.odd
        return rows


def test_places_are_tried_in_two_parts_of_what_is_computed_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_places_alike", set())
    alike, misplaced = Apart(0), Apart(2.0**-23)
    places.require_places_alike("apart", {"own": 0}, INFO, "cpu", alike)  # type: ignore[arg-type]
    assert alike.asked == 5 * 4  # one example and four, each as they are; and four moved three times
    with pytest.raises(ModelError, match="place in the batch"):
        places.require_places_alike("apart", {"own": 1}, INFO, "cpu", misplaced)  # type: ignore[arg-type]


@pytest.mark.parametrize("bandwidth", [1e-300, 1e-3, 1e3, math.inf, math.nan])
def test_a_bandwidth_that_means_nothing_is_refused(bandwidth: float) -> None:
    with pytest.raises(ConfigurationError, match="bandwidth"):
        dataclasses.replace(SPEC, bandwidth=bandwidth)


def test_rows_that_would_fill_a_clients_memory_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="rows of"):
        dataclasses.replace(SPEC, frequencies=1 << 20)


@pytest.mark.parametrize("width", [8, 16, 32, 128])
def test_networks_of_usual_widths_have_places_alike_here(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_places_alike", set())
    for name, spec in (("convnet", {"width": width, "depth": 1}), ("mlp", {"width": width, "depth": 1})):
        model = ModelSpec(name, spec)
        state = model.build(INFO.shape, INFO.num_classes, seed=1).state_dict()
        arguments = {"model": model.to_json(), "granularity": "class"}
        private_question("class_gradients", arguments, state, INFO, "cpu")


def test_what_places_do_is_found_with_public_weights_whatever_the_query_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "_places_alike", set())
    model = ModelSpec("mlp", {"width": 16, "depth": 1})
    state = model.build(INFO.shape, INFO.num_classes, seed=1).state_dict()
    arguments = {"model": model.to_json(), "granularity": "class"}
    not_numbers = {name: torch.full_like(tensor, math.nan) for name, tensor in state.items()}
    private_question("class_gradients", arguments, not_numbers, INFO, "cpu")  # answered: noise, and charged
    monkeypatch.setattr(places, "_places_alike", set())
    honest = PerExampleGradients.rows

    def misplaced(self: PerExampleGradients, images: Tensor, labels: Tensor) -> Tensor:
        rows = honest(self, images, labels)
        rows[20] = torch.nextafter(rows[20], torch.full_like(rows[20], 2.0)) if bool(rows.any()) else rows[20]
        return rows

    monkeypatch.setattr(PerExampleGradients, "rows", misplaced)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in state.items()}
    for tensors in (zeros, state):
        with pytest.raises(ModelError, match="place in the batch"):
            private_question("class_gradients", arguments, tensors, INFO, "cpu")
