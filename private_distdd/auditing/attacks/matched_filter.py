"""The matched filter of natural examples in messages of gradients."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from private_distdd.auditing.attacks.gradients import about_gradients
from private_distdd.auditing.bounds import Scores
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.networks.micro_batch import micro_batches
from private_distdd.networks.per_example import PerExampleGradients
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import LATTICE, clip_to_lattice
from private_distdd.wire.message import Message

MEMBER_RATE = 0.5  # of the pool, in a client


class Network:
    """One network at known weights: the query for it, and the direction in which each example of the pool is sought."""

    def __init__(
        self,
        spec: ModelSpec,
        network_seed: int,
        pool: ImageDataset,
        public: ImageDataset,
        setting: Setting | None,
        centred: bool,
    ) -> None:
        model = spec.build(pool.info.shape, pool.info.num_classes, seed=network_seed)
        self.question = about_gradients(spec, pool.info, seed=network_seed)
        gradients = PerExampleGradients(model)
        max_grad_norm = math.inf if setting is None else setting.max_grad_norm
        own, known = (_clipped(gradients, dataset, max_grad_norm) for dataset in (pool, public))
        self._divisor, rate = (1.0, 1.0) if setting is None else (setting.divisor, setting.sample_rate)
        noise = 0.1 * _root_mean_square(known) if setting is None else setting.noise_multiplier * setting.max_grad_norm
        self._labels = pool.labels
        self._directions = torch.nn.functional.normalize(own, dim=1)
        self._expected = torch.zeros(pool.info.num_classes, gradients.dimension, dtype=torch.float64)
        if not centred:
            return
        share = rate * MEMBER_RATE
        for label in torch.unique(pool.labels).tolist():
            alike, count = known[public.labels == label], int((pool.labels == label).sum())
            self._expected[label] = share * count * alike.mean(dim=0)
            background = alike * math.sqrt(share * (1 - share) * count / len(alike))
            self._directions[pool.labels == label] = matched(own[pool.labels == label], background, noise)

    def scores(self, message: Message) -> Scores:
        """The score of each example of the pool, float64 [pool]."""
        rows = message.values.to(torch.float64) * self._divisor - self._expected
        return np.asarray((self._directions * rows[self._labels]).sum(dim=1).numpy())


def _root_mean_square(rows: Tensor) -> float:
    """Of the norms; 1 where all are zero."""
    return math.sqrt(float(rows.square().sum(dim=1).mean())) or 1.0


def matched(rows: Tensor, background: Tensor, noise: float) -> Tensor:
    """V^-1 g / sqrt(<g, V^-1 g>) for each row g, where V = B^T B + noise^2 I; by Woodbury, as B has few rows."""
    gram = background @ background.T + noise**2 * torch.eye(len(background), dtype=torch.float64)
    whitened: Tensor = (rows - torch.linalg.solve(gram, background @ rows.T).T @ background) / noise**2
    scale: Tensor = (rows * whitened).sum(dim=1, keepdim=True).clamp(min=1e-300).sqrt()
    return whitened / scale


def _clipped(gradients: PerExampleGradients, dataset: ImageDataset, max_grad_norm: float) -> Tensor:
    """Each example's gradient as the mechanism sums it, float64 [n, parameters]; unclipped for an infinite norm."""
    parts = []
    for images, targets, count in micro_batches(dataset.images, dataset.labels):
        rows = gradients.rows(images, targets)[:count]
        exact = rows.to(torch.float64)
        if math.isfinite(max_grad_norm):
            exact = clip_to_lattice(rows, max_grad_norm).to(torch.float64) * (max_grad_norm / LATTICE)
        parts.append(exact)
    return torch.cat(parts)
