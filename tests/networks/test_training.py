"""The one training loop, against SGD by hand."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from private_distdd.networks.training import train


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


IMAGES = torch.randn((10, 4), generator=torch.Generator().manual_seed(1))
LABELS = torch.arange(10) % 3
SOFT = torch.randn((10, 3), generator=torch.Generator().manual_seed(2)).softmax(dim=1)
KNOBS: dict[str, Any] = {
    "epochs": 5,
    "batch_size": 4,
    "learning_rate": 0.2,
    "momentum": 0.8,
    "weight_decay": 0.01,
}


def trained(targets: Tensor, seed: int = 3, **changes: Any) -> list[Tensor]:
    model = network()
    train(model, IMAGES, targets, **(KNOBS | {"generator": torch.Generator().manual_seed(seed)} | changes))
    return [parameter.detach() for parameter in model.parameters()]


def by_hand(targets: Tensor, epochs: int = 5, dropped: int = 3) -> list[Tensor]:
    """The rate falls to a tenth after epoch `dropped`."""
    model, generator = network(), torch.Generator().manual_seed(3)
    moments = [torch.zeros_like(parameter) for parameter in model.parameters()]
    if targets.ndim == 1:
        targets = nn.functional.one_hot(targets, 3).float()
    for epoch in range(epochs):
        for batch in torch.split(torch.randperm(10, generator=generator), 4):
            loss = -(targets[batch] * model(IMAGES[batch]).log_softmax(dim=1)).sum(dim=1).mean()
            gradients = torch.autograd.grad(loss, list(model.parameters()))
            with torch.no_grad():
                for parameter, gradient, moment in zip(model.parameters(), gradients, moments, strict=True):
                    moment.mul_(0.8).add_(gradient + 0.01 * parameter)
                    parameter.sub_((0.2 if epoch < dropped else 0.02) * moment)
    return [parameter.detach() for parameter in model.parameters()]


def near(a: list[Tensor], b: list[Tensor]) -> bool:
    return all(torch.allclose(x, y, atol=1e-6) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("targets", [LABELS, SOFT], ids=["hard", "soft"])
def test_it_is_sgd_on_the_cross_entropy(targets: Tensor) -> None:
    assert near(trained(targets), by_hand(targets))
    for dropped in (2, 4, 5):
        assert not near(trained(targets), by_hand(targets, dropped=dropped))


@pytest.mark.parametrize(("epochs", "dropped"), [(1, 1), (2, 2), (3, 2), (4, 3)])
def test_the_rate_falls_after_half_of_the_epochs_and_one(epochs: int, dropped: int) -> None:
    assert near(trained(LABELS, epochs=epochs), by_hand(LABELS, epochs, dropped))


def test_hard_labels_are_soft_ones_of_one_class() -> None:
    assert near(trained(LABELS), trained(nn.functional.one_hot(LABELS, 3).float()))
    assert not near(trained(LABELS), trained(SOFT))


def test_the_generator_alone_decides_the_order() -> None:
    torch.manual_seed(5)
    first = trained(LABELS)
    torch.manual_seed(6)
    assert all(torch.equal(a, b) for a, b in zip(first, trained(LABELS), strict=True))
    assert not near(first, trained(LABELS, seed=4))


def test_each_batch_is_augmented_when_it_is_seen() -> None:
    sizes: list[int] = []

    def double(batch: Tensor) -> Tensor:
        sizes.append(len(batch))
        return 2 * batch

    found = trained(LABELS, augment=double)
    assert sizes == [4, 4, 2] * 5
    assert not near(found, trained(LABELS))
    assert near(trained(LABELS, augment=lambda batch: batch), trained(LABELS))
