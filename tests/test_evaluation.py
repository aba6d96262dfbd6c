"""Training on a set and testing on real digits: it learns what is there, only that, and leaves global state alone."""

from __future__ import annotations

import dataclasses
import math
import random
import re
from typing import Any

import numpy as np
import pytest
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import ConfigurationError, DataError, ModelError
from private_distdd.evaluation import Evaluation, evaluate, require_alike
from private_distdd.networks.scores import Scores
from private_distdd.networks.spec import ModelSpec
from private_distdd.protocol import accuracy, train_network
from private_distdd.synthetic.dataset import SyntheticDataset

TRAIN, TEST = load_dataset("digits")
SMALL = ModelSpec("convnet", {"width": 16, "depth": 2})


def first_per_class(count: int) -> SyntheticDataset:
    """Real digits in the form of a synthetic set."""
    chosen = torch.cat([(TRAIN.labels == label).nonzero().squeeze(1)[:count] for label in range(10)])
    return SyntheticDataset(TRAIN.images[chosen], TRAIN.labels[chosen], TRAIN.info)


def test_real_digits_are_learnt_and_shuffled_labels_are_not() -> None:
    options = {"model_args": SMALL.arguments, "epochs": 10, "batch_size": 64}
    real = evaluate(TRAIN, TEST, seeds=[0, 1], **options)
    assert min(real.accuracies) > 0.9
    order = torch.randperm(len(TRAIN), generator=torch.Generator().manual_seed(0))
    shuffled = ImageDataset(TRAIN.images, TRAIN.labels[order], TRAIN.info)
    assert evaluate(shuffled, TEST, seeds=[0], **options).mean < 0.3


def test_the_full_protocol_on_ten_images_a_class() -> None:
    result = evaluate(first_per_class(10), TEST, model_args=SMALL.arguments, seeds=[0])
    assert result.mean > 0.75
    assert result.model == SMALL
    assert result.seeds == (0,)
    mlp = evaluate(first_per_class(10), TEST, model="mlp", seeds=[0])
    assert mlp.mean > 0.75


def test_progress_tells_epochs_and_accuracy_and_changes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    def scored(**others: Any) -> Evaluation:
        return evaluate(first_per_class(1), TEST, model_args={"width": 4}, seeds=[0, 1], epochs=3, **others)

    quiet = scored()
    assert capsys.readouterr().err == ""
    assert scored(progress=True) == quiet
    lines = capsys.readouterr().err.splitlines()
    assert lines[0].startswith("epoch 0/6, 0:00:0")
    assert re.fullmatch(rf"epoch 6/6, 0:00:0\d, accuracy of 2 so far {quiet.mean:.1%}", lines[-1])


def test_seeds_repeat_and_global_random_states_stay() -> None:
    torch.manual_seed(7)
    states = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()
    data = first_per_class(3)
    first, again, other = (
        train_network(SMALL, data, epochs=4, batch_size=8, augment=True, seed=seed).state_dict() for seed in (1, 1, 2)
    )
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(first["0.weight"], other["0.weight"])
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (np.random.get_state()[1] == states[1]).all()
    assert random.getstate() == states[2]


def test_learning_rate_falls_once_after_half_of_the_epochs() -> None:
    """Plain gradient descent by hand, on one batch, gives the same weights."""
    data = first_per_class(2)
    trained = train_network(
        ModelSpec("mlp", {"width": 4}), data, epochs=6, learning_rate=0.5, momentum=0, weight_decay=0.01, seed=3
    )
    by_hand = ModelSpec("mlp", {"width": 4}).build((1, 8, 8), 10, seed=3)
    for rate in (0.5, 0.5, 0.5, 0.5, 0.05, 0.05):  # 6 // 2 + 1 = 4 epochs at the first rate
        loss = torch.nn.functional.cross_entropy(by_hand(data.images), data.labels)
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter -= rate * (gradient + 0.01 * parameter)
    for found, expected in zip(trained.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)
    assert not trained.training


def test_accuracy_counts() -> None:
    info = DatasetInfo("x", 3, (3, 1, 1))
    images = torch.eye(3)[[0, 1, 2, 0, 0]][:, :, None, None]
    data = ImageDataset(images, torch.tensor([0, 1, 2, 1, 2]), info)
    assert accuracy(torch.nn.Flatten(), data, batch_size=2) == 3 / 5
    assert accuracy(torch.nn.Flatten(), data) == 3 / 5


def test_shifts_move_each_image_by_itself_and_bring_in_black() -> None:
    info = DatasetInfo("x", 2, (1, 16, 16), (0.25,), (0.5,))
    black = -0.5
    images = torch.full((200, 1, 16, 16), black)
    images[:, :, 8, 8] = 1.5
    moved = info.augment(images, torch.Generator().manual_seed(0))
    assert moved.shape == images.shape
    assert moved.unique().tolist() == [black, 1.5]
    places = (moved == 1.5).nonzero()[:, 2:] - 8
    assert len(places) == 200  # the bright pixel is far from the edge
    assert (places.min(), places.max()) == (-2, 2)
    assert len(places.unique(dim=0)) == 25


def test_mean_and_spread() -> None:
    scores = [Scores(accuracy, 0.5, 0.5, ()) for accuracy in (0.5, 0.6, 0.7)]
    result = Evaluation(SMALL, (0, 1, 2), tuple(scores))
    assert result.mean == pytest.approx(0.6)
    assert result.std == pytest.approx(0.1)  # divisor n - 1
    assert str(result) == "60.0% ± 10.0% (convnet, 3 seeds)"
    assert math.isnan(Evaluation(SMALL, (0,), (scores[0],)).std)


@pytest.mark.parametrize("change", [{"mean": (0.4,)}, {"std": (0.4,)}, {"num_classes": 11}])
def test_sets_that_do_not_fit_are_refused(change: dict[str, object]) -> None:
    other = ImageDataset(TEST.images, TEST.labels, dataclasses.replace(TEST.info, **change))
    with pytest.raises(DataError, match=next(iter(change))):
        evaluate(TRAIN, other)


def test_bad_arguments_are_refused_before_training() -> None:
    nothing = ImageDataset(TEST.images[:0], TEST.labels[:0], TEST.info)
    other_shape = ImageDataset(
        torch.zeros(1, 1, 9, 9), torch.zeros(1, dtype=torch.int64), DatasetInfo("x", 10, (1, 9, 9))
    )
    for train, test, says in (
        (TRAIN, other_shape, "shape"),
        (nothing, TEST, "training set"),
        (TRAIN, nothing, "test set"),
    ):
        with pytest.raises(DataError, match=says):
            evaluate(train, test)
    with pytest.raises(DataError, match="test set"):
        accuracy(torch.nn.Flatten(), nothing)
    for name, value in (
        ("epochs", 0),
        ("batch_size", 0),
        ("learning_rate", 0.0),
        ("momentum", -1),
        ("weight_decay", -1),
    ):
        with pytest.raises(ConfigurationError, match=name):
            evaluate(TRAIN, TEST, **{name: value})
    with pytest.raises(ConfigurationError, match="no seeds"):
        evaluate(TRAIN, TEST, seeds=())
    with pytest.raises(ModelError, match="registered name"):
        evaluate(TRAIN, TEST, model="vgg")


def test_mosaics_are_trained_on_and_counted_part_by_part() -> None:
    data = first_per_class(2)
    mosaic = SyntheticDataset(data.images, data.labels, data.info, 2)
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "augment": True, "seed": 1}
    trained = [train_network(SMALL, own, **options) for own in (mosaic, mosaic.expanded(), data)]
    parts, by_hand, whole = (network.state_dict() for network in trained)
    assert all(torch.equal(parts[name], by_hand[name]) for name in parts)
    assert not torch.equal(parts["0.weight"], whole["0.weight"])
    result = evaluate(mosaic, TEST, model_args=SMALL.arguments, seeds=[1], epochs=3, batch_size=16, augment=True)
    assert result.accuracies == (accuracy(trained[0], TEST),)
    network = train_network(SMALL, mosaic, epochs=60, batch_size=16, seed=0)
    on_parts = accuracy(network, mosaic, batch_size=7)
    assert on_parts == accuracy(network, mosaic.expanded()) > 0.5
    assert on_parts == sum(int(network(x[None]).argmax()) == y for x, y in mosaic) / 80


def test_tables_are_learnt_and_never_augmented() -> None:
    train, test = load_dataset("iris")
    assert evaluate(train, test, model="mlp", seeds=[0], epochs=100).mean > 0.9
    with pytest.raises(ConfigurationError, match="augment = True for rows of 4 features; allowed: False"):
        evaluate(train, test, model="mlp", augment=True)
    with pytest.raises(ModelError, match="Use 'mlp'"):
        evaluate(train, test)
    with pytest.raises(DataError, match="shape"):
        evaluate(train, TEST, model="mlp")


# Soft labels: protocols of their own


def softened(partition: int = 1, wrong: bool = False) -> SyntheticDataset:
    """Real digits with soft labels: .6 on the true class, or on the next one."""
    data = first_per_class(4)
    labels = data.labels.repeat_interleave(partition**2)
    soft = torch.full((len(labels), 10), 0.4 / 9)
    soft[torch.arange(len(labels)), (labels + wrong) % 10] = 0.6
    return SyntheticDataset(data.images, data.labels, data.info, partition, soft)


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_the_loss_is_the_weighted_sum_by_hand(weight: float) -> None:
    data = softened(wrong=True)
    soft = data.require_soft_labels()
    spec = ModelSpec("mlp", {"width": 4})
    trained = train_network(
        spec, data, epochs=2, learning_rate=0.5, momentum=0, weight_decay=0, soft_weight=weight, seed=3
    )
    by_hand = spec.build((1, 8, 8), 10, seed=3)
    for rate in (0.5, 0.5):
        log_p = by_hand(data.images).log_softmax(dim=1)
        hard_loss = -log_p[torch.arange(len(data)), data.labels].mean()
        loss = (1 - weight) * hard_loss - weight * (soft * log_p).sum(dim=1).mean()
        gradients = torch.autograd.grad(loss, list(by_hand.parameters()))
        with torch.no_grad():
            for parameter, gradient in zip(by_hand.parameters(), gradients, strict=True):
                parameter -= rate * gradient
    for found, expected in zip(trained.parameters(), by_hand.parameters(), strict=True):
        assert torch.allclose(found, expected, atol=1e-5)


def test_hard_is_the_default_and_looks_at_no_soft_label() -> None:
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "augment": True, "seed": 1}
    plain, soft, forced = (
        train_network(SMALL, data, **options, **more).state_dict()
        for data, more in ((first_per_class(4), {}), (softened(wrong=True), {}), (softened(), {"soft_weight": 1.0}))
    )
    assert all(torch.equal(plain[name], soft[name]) for name in plain)
    assert not torch.equal(plain["0.weight"], forced["0.weight"])


@pytest.mark.parametrize("augment", [False, True])
def test_what_soft_labels_say_is_learnt(augment: bool) -> None:
    """Labels that all point to the next class teach the next class; mixed, the heavier side wins."""
    options: dict[str, Any] = {"model_args": SMALL.arguments, "seeds": [0], "epochs": 40, "augment": augment}
    mean = {
        (labels, weight): evaluate(softened(wrong=True), TEST, labels=labels, soft_weight=weight, **options).mean
        for labels, weight in (("hard", 0.7), ("soft", 0.7), ("mixed", 0.9), ("mixed", 0.1))
    }
    assert mean["hard", 0.7] > 0.5
    assert mean["mixed", 0.1] > 0.5
    assert mean["soft", 0.7] < 0.2
    assert mean["mixed", 0.9] < 0.2


def test_each_part_of_a_mosaic_is_trained_with_its_own_soft_label() -> None:
    """As the expanded set, and as a set of whole images that are the parts."""
    data = softened(2)
    soft = torch.rand((len(data), 10), generator=torch.Generator().manual_seed(0))
    mosaics = SyntheticDataset(data.images, data.labels, data.info, 2, soft / soft.sum(dim=1, keepdim=True))
    parts = torch.stack([image for image, _ in mosaics.soft()])
    labels = torch.tensor([label for _, label in mosaics])
    whole = SyntheticDataset(parts, labels, data.info, 1, torch.stack([row for _, row in mosaics.soft()]))
    options: dict[str, Any] = {"epochs": 3, "batch_size": 16, "soft_weight": 0.7, "seed": 1}
    first, *others = (train_network(SMALL, own, **options).state_dict() for own in (mosaics, mosaics.expanded(), whole))
    for other in others:
        assert all(torch.equal(first[name], other[name]) for name in first)


def test_a_result_names_its_protocol() -> None:
    options: dict[str, Any] = {"model": "mlp", "model_args": {"width": 4}, "seeds": [0], "epochs": 1}
    found = {labels: evaluate(softened(), TEST, labels=labels, **options) for labels in ("hard", "soft", "mixed")}
    assert {labels: result.labels for labels, result in found.items()} == {name: name for name in found}
    assert {labels: result.soft_weight for labels, result in found.items()} == {"hard": 0, "soft": 1, "mixed": 0.7}
    assert str(found["hard"]).endswith("(mlp, 1 seed)")
    assert str(found["soft"]).endswith("(mlp, 1 seed, soft labels)")
    assert str(found["mixed"]).endswith("(mlp, 1 seed, mixed labels, 70% soft)")
    assert found["hard"] == evaluate(softened(), TEST, **options)
    assert Evaluation(SMALL, (0,), found["hard"].scores).labels == "hard"


def test_soft_labels_that_are_not_there_or_not_asked_for_well_are_refused() -> None:
    for labels in ("soft", "mixed"):
        with pytest.raises(ConfigurationError, match="soft labels of a synthetic set that has none"):
            evaluate(first_per_class(1), TEST, labels=labels)
        with pytest.raises(ConfigurationError, match="soft labels of an object of type ImageDataset"):
            evaluate(TRAIN, TEST, labels=labels)
    with pytest.raises(ConfigurationError, match="labels = 'both'; allowed: one of"):
        evaluate(softened(), TEST, labels="both")
    for weight in (0, 1, -0.1, math.nan, "1", True):
        with pytest.raises(ConfigurationError, match="soft_weight"):
            evaluate(softened(), TEST, labels="mixed", soft_weight=weight)  # type: ignore[arg-type]
    for weight in (-1e-9, 1.000001, math.nan):
        with pytest.raises(ConfigurationError, match="soft_weight"):
            train_network(SMALL, softened(), soft_weight=weight, seed=0)


def test_an_evaluation_has_what_accuracy_does_not_tell() -> None:
    result = evaluate(first_per_class(3), TEST, model="mlp", model_args={"width": 16}, seeds=range(2), epochs=99)
    assert result.accuracies == tuple(own.accuracy for own in result.scores)
    assert sum(map(sum, result.confusion)) == 2 * len(TEST)
    assert [sum(row) for row in result.confusion] == (2 * torch.bincount(TEST.labels)).tolist()
    assert result.balanced_accuracy == pytest.approx(sum(own.balanced_accuracy for own in result.scores) / 2)
    assert 0.5 < result.auc < 1


def test_large_images_are_classified_a_few_at_a_time() -> None:
    info, seen = DatasetInfo("scans", 2, (3, 224, 224)), list[int]()

    class Seeing(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(len(x))
            return x.flatten(1)[:, :2]

    accuracy(Seeing(), ImageDataset(torch.zeros(25, 3, 224, 224), torch.zeros(25, dtype=torch.int64), info))
    assert seen == [10, 10, 5]


def test_a_test_set_with_other_names_is_refused() -> None:
    own = DatasetInfo("x", 2, (1, 8, 8), classes=("healthy", "ill"))
    require_alike(own, DatasetInfo("y", 2, (1, 8, 8)))  # without names nobody can tell
    with pytest.raises(DataError, match="test set with classes"):
        require_alike(own, DatasetInfo("y", 2, (1, 8, 8), classes=("ill", "healthy")))
