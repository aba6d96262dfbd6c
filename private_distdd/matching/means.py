"""Class means of embeddings, and the steps on synthetic examples that match them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.networks.embedding import _TINY, Embedding
from private_distdd.synthetic.latents import Latents
from private_distdd.synthetic.mosaic import expand


def class_means(sums: Tensor, counts: Tensor) -> Tensor:
    """Mean embeddings, float [K, classes, 2 m], of their sums and counts, noisy or not.

    A noisy count may be anything; below a hundredth of the mean class it says nothing but "small".
    """
    least = counts.abs().mean().clamp(min=_TINY) / 100
    return sums / counts.maximum(least)[:, None]


def match_means(
    latents: Latents,
    labels: Tensor,
    networks: Sequence[Embedding],
    means: Tensor,
    info: DatasetInfo,
    *,
    partition: int,
    steps: int,
    rate: float,
    smoothness: float,
    rng: np.random.Generator,
    generator_rate: float = 0.01,
    report: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Change S's latents, in place, so that its mean embeddings match: sum over classes of squared distances.

    Each step is one of Adam at one network, every network once before any is used again; rates fall along half a
    cosine to 0, and pixels stay between black and white (values of a table have no bounds).

    Args:
        latents: of n examples, and what makes images of them.
        labels: int64 [n], on the same device; a class without examples is left out.
        networks: K of them.
        means: float [K, classes, 2 m], what is to be matched.
        info: public shape and normalisation.
        partition: see `expand`.
        steps: of Adam, >= 1.
        rate: its first, > 0, for the latents.
        smoothness: weight of the total variation of S, >= 0: without it S takes on what is noise in the means.  Of no
            effect on tables, whose values have no neighbours.
        rng: of the networks' order.
        generator_rate: for a generator's weights that are learned, > 0.
        report: called after each step with its number, from 1, and its loss.

    Source: Zhao and Bilen 2023, eq. 5, with these embeddings.
    """
    if not len(labels):  # a client whose share of S is none; torch has no grid for it
        return
    latents.clamp()
    optimizer = torch.optim.Adam(latents.groups(rate, generator_rate), betas=(0.9, 0.99))
    parts = labels.repeat_interleave(partition**2)
    members = (parts == torch.arange(means.shape[1], device=parts.device)[:, None]).to(means.dtype)
    present = members.sum(dim=1) > 0
    members = members[present] / members[present].sum(dim=1, keepdim=True)
    order: list[int] = []
    for step in range(steps):
        order = order or rng.permutation(len(networks)).tolist()
        network = order.pop()
        examples = expand(latents.examples(), partition)
        loss = (members @ networks[network](examples) - means[network][present]).square().sum()
        if smoothness and info.form.spatial:
            loss = loss + smoothness * len(members) * total_variation(examples)
        optimizer.zero_grad()
        torch.autograd.backward(loss, inputs=list(latents.variables.values()))
        for group in optimizer.param_groups:
            group["lr"] = group["most"] * (1 + math.cos(math.pi * step / steps)) / 2
        optimizer.step()
        latents.clamp()
        report(step + 1, float(loss.detach()))


def total_variation(images: Tensor) -> Tensor:
    """The mean size of the steps from a pixel to the one below it and to the one on its right, of [n, C, H, W]."""
    down, right = images.diff(dim=2).abs().sum(), images.diff(dim=3).abs().sum()
    total: Tensor = (down + right) / images.numel()
    return total
