"""The one loop that trains a network: SGD on cross-entropy."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def train(
    network: nn.Module,
    images: Tensor,
    targets: Tensor,
    *,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    momentum: float,
    weight_decay: float,
    generator: torch.Generator,
    augment: Callable[[Tensor], Tensor] | None = None,
    report: Callable[[int], object] = lambda epochs: None,
) -> None:
    """Train a network in place, in the mode it is in; the rate falls to a tenth after epochs // 2 + 1 epochs.

    Args:
        network: on the device of `images` and `targets`.
        images: float32 [n, *shape].
        targets: int64 [n], or float32 [n, classes]: what the cross-entropy is to.
        epochs: >= 1.
        batch_size: >= 1; the last batch of an epoch may be smaller.
        learning_rate: > 0, at first.
        momentum: >= 0.
        weight_decay: >= 0.
        generator: of the order, on the CPU.
        augment: what is done to every batch, each time it is seen.
        report: called after each epoch with how many are done.
    """
    optimizer = torch.optim.SGD(network.parameters(), learning_rate, momentum=momentum, weight_decay=weight_decay)
    for epoch in range(epochs):
        if epoch == epochs // 2 + 1:
            optimizer.param_groups[0]["lr"] = learning_rate / 10
        order = torch.randperm(len(images), generator=generator)
        for start in range(0, len(images), batch_size):
            chosen = order[start : start + batch_size].to(images.device)
            batch = images[chosen] if augment is None else augment(images[chosen])
            optimizer.zero_grad()
            loss = F.cross_entropy(network(batch), targets[chosen])
            torch.autograd.backward(loss)
            optimizer.step()
        report(epoch + 1)
