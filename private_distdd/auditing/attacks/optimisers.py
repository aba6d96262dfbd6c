"""Attacks that rebuild images from a gradient: what they minimise, and how."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.matching.gradients import group_gradients
from private_distdd.validate import require_count, require_number


class Objective:
    """How far the gradients of images are from what was sent.

    One image a target: |u - v|^2 of the unit vectors, which is 2 (1 - cosine), as clipping takes the scale.  Several:
    |sum of clipped gradients - sent|^2 / |sent|^2, as the attacker then says how many are held.

    Args:
        model: the network, its weights known; float64 here.
        sent: float64 [targets, parameters], a class's row of a message for each target.
        labels: int64 [targets].
        info: image shape and normalisation.
        max_grad_norm: C, to which each image's gradient is clipped before they are summed; inf without.

    Attributes:
        low, high: float64 [C, 1, 1]: pixels 0 and 1 as the network sees them.
    """

    def __init__(self, model: nn.Module, sent: Tensor, labels: Tensor, info: DatasetInfo, max_grad_norm: float) -> None:
        self._model, self._labels, self.shape, self._max_norm = model, labels, info.shape, max_grad_norm
        corner = torch.zeros(info.shape[0], 1, 1)
        self.low, self.high = (info.normalise(corner + pixel).to(torch.float64) for pixel in (0, 1))
        self._sent = sent

    def __len__(self) -> int:
        return len(self._labels)

    def distances(self, images: Tensor, targets: Tensor) -> Tensor:
        """float64 [n], differentiable in images [n, m, C, H, W], m of them for each of the `targets` [n]."""
        each, sent = images.shape[1], self._sent[targets]
        labels = self._labels[targets].repeat_interleave(each)
        gradients = group_gradients(self._model, images.flatten(0, 1)[:, None], labels[:, None])
        if each == 1:
            return (F.normalize(gradients, dim=1) - F.normalize(sent, dim=1, eps=1e-300)).square().sum(dim=1)
        if math.isfinite(self._max_norm):  # an infinite one would make the derivative NaN
            norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
            gradients = gradients * (self._max_norm / norms).clamp(max=1.0)
        misses: Tensor = gradients.reshape(len(images), each, -1).sum(dim=1) - sent
        return misses.square().sum(dim=1) / sent.square().sum(dim=1).clamp(min=1e-300)


class Attack(Protocol):
    """A search for images.

    Attributes:
        name: in words.
    """

    name: str

    def search(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        """From starts [targets, m, C, H, W] to images of that shape and the attack's own losses [targets].

        The loss is what the search lowers: it knows nothing of the truth.
        """
        ...


@dataclass(frozen=True)
class CosineAttack:
    """Signed Adam on 1 - cosine, plus total variation, pixels kept in [0, 1]: for ReLU and InstanceNorm networks.

    Args:
        steps: of Adam, at least 1; its rate falls tenfold after 3/8, 5/8 and 7/8 of them.
        total_variation: weight >= 0 of the mean absolute difference of neighbouring pixels.

    Raises:
        ConfigurationError: an argument is outside its range.

    Source: Geiping, Bauermeister, Droege and Moeller 2020.
    """

    steps: int = 600
    total_variation: float = 3e-3

    name = "cosine distance with total variation, signed Adam"

    def __post_init__(self) -> None:
        require_count("steps", self.steps, "600 is usual.")
        below = math.nextafter(0.0, -1.0)
        require_number("total_variation", self.total_variation, below, math.inf, "a number >= 0", "0.003 is usual.")

    def search(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attack`; all targets at once, as signs leave none to sway another."""
        images, targets = starts.clone().requires_grad_(), torch.arange(len(objective))
        optimiser = torch.optim.Adam([images], lr=0.1)
        milestones = [self.steps * eighths // 8 for eighths in (3, 5, 7)]
        schedule = torch.optim.lr_scheduler.MultiStepLR(optimiser, milestones)

        def losses() -> Tensor:
            roughness = sum(images.diff(dim=dim).abs().flatten(1).mean(dim=1) for dim in (3, 4))
            return objective.distances(images, targets) / 2 + self.total_variation * roughness

        for _ in range(self.steps):
            (images.grad,) = torch.autograd.grad(losses().sum(), images)
            images.grad.sign_()
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.copy_(images.clamp(objective.low, objective.high))
        return images.detach(), losses().detach()


_LBFGS_SCALE = 1e8  # torch's L-BFGS forgets curvatures below 1e-10: unscaled, LeNet ends at 45 dB, not 70


@dataclass(frozen=True)
class LBFGSAttack:
    """L-BFGS on the normalised L2 distance: for smooth networks (tanh, average pooling, GroupNorm or none).

    Args:
        steps: of L-BFGS, at least 1, all of them remembered: a short memory converges far worse.

    Raises:
        ConfigurationError: so few steps.

    Source: Zhu, Liu and Han 2019; normalised, as clipping takes the scale.
    """

    steps: int = 800

    name = "normalised L2 distance, L-BFGS"

    def __post_init__(self) -> None:
        require_count("steps", self.steps, "300 to 800 are usual.")

    def search(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        """See `Attack`; one target after another, each with line searches of its own."""
        found = [self._alone(objective, start[None].clone(), target) for target, start in enumerate(starts)]
        return torch.cat([image for image, _ in found]), torch.cat([loss for _, loss in found])

    def _alone(self, objective: Objective, image: Tensor, target: int) -> tuple[Tensor, Tensor]:
        image.requires_grad_()
        own = torch.tensor([target])
        optimiser = torch.optim.LBFGS(
            [image], max_iter=self.steps, history_size=self.steps, line_search_fn="strong_wolfe"
        )

        def closure() -> Tensor:
            loss = _LBFGS_SCALE * objective.distances(image, own).sum()
            image.grad = torch.autograd.grad(loss, image)[0].contiguous()  # as L-BFGS views it
            return loss.detach()

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch's own
        return image.detach(), objective.distances(image, own).detach()
