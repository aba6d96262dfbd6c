"""Gradient inversion: can images be rebuilt from one message?  What it gets is a description, never a bound.

A message says of each class c the sum of (clipped) gradients of the examples held.  The attacker knows the weights, and
searches one image whose gradient points the same way, or several whose gradients, clipped alike, have that sum.  Their
mean is compared with the mean of the examples held: for a single one, with that example.

An image that looks like its class is no leak.  Hence the gain over the public class-mean guess: the PSNR of what was
rebuilt, less the PSNR of the mean image of that class in a public set.

Sources: Zhu, Liu and Han 2019 (L-BFGS); Geiping et al. 2020 (cosine, signed Adam, total variation); Wang et al. 2004
(SSIM); Zhao, Mopuri and Bilen 2020 (labels are read before anything is searched).
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from private_distdd.auditing.membership import check_public
from private_distdd.auditing.records import AIM, AuditRecord
from private_distdd.data.datasets import DatasetInfo, ImageDataset
from private_distdd.errors import DataError
from private_distdd.federation.client import Client
from private_distdd.federation.messages import Query, Run
from private_distdd.gradients import clipped_class_sums, group_gradients
from private_distdd.models import ModelSpec
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.privacy.spec import PrivacyPlan, require_count, require_number

NOTHING, CLIPPING = "no privacy", "clipping only"
BEST_PSNR = 120.0  # dB; two images that agree to float32 rounding have no larger one


def psnr(images: Tensor, references: Tensor) -> Tensor:
    """Peak signal-to-noise ratio -10 log10(mean squared error) of each image, in dB; at most 120.

    Args:
        images, references: float [n, C, H, W], in [0, 1].

    Returns:
        float64 [n].

    Raises:
        DataError: the shapes differ, or there are not four dimensions.
    """
    images, references = _pair(images, references)
    errors = (images - references).square().flatten(1).mean(dim=1)
    return -10 * torch.log10(errors.clamp(min=10 ** (-BEST_PSNR / 10)))


def ssim(images: Tensor, references: Tensor) -> Tensor:
    """Structural similarity of each image, in [-1, 1]: the mean over all windows that fit, and over channels.

    Windows are Gaussian, of width 11 and standard deviation 1.5 pixels; smaller images have the largest odd width that
    fits.  K1 = .01, K2 = .03, dynamic range 1.

    Args:
        images, references: float [n, C, H, W], in [0, 1].

    Returns:
        float64 [n].

    Raises:
        DataError: the shapes differ, or there are not four dimensions.

    Source: Wang, Bovik, Sheikh and Simoncelli 2004.
    """
    images, references = _pair(images, references)
    width = min(11, *(side - 1 + side % 2 for side in images.shape[2:]))
    ticks = torch.arange(width, dtype=images.dtype) - width // 2
    line = torch.exp(-ticks.square() / (2 * 1.5**2))
    window = (line[:, None] * line / line.sum() ** 2)[None, None]

    def local(values: Tensor) -> Tensor:
        return F.conv2d(values.flatten(0, 1)[:, None], window)

    mean, other = local(images), local(references)
    variance, other_variance = local(images.square()) - mean.square(), local(references.square()) - other.square()
    covariance = local(images * references) - mean * other
    c1, c2 = 0.01**2, 0.03**2
    likeness = (2 * mean * other + c1) * (2 * covariance + c2)
    likeness = likeness / ((mean.square() + other.square() + c1) * (variance + other_variance + c2))
    return likeness.reshape(len(images), -1).mean(dim=1)


def _pair(images: Tensor, references: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64."""
    if images.dim() != 4 or images.shape != references.shape or not images.numel():
        raise DataError(
            f"images {list(images.shape)} and references {list(references.shape)}",
            "two tensors [n, C, H, W] of one shape",
            "Compare each image with its own reference.",
        )
    return images.to(torch.float64), references.to(torch.float64)


class Objective:
    """How far the gradients of images are from what was sent.

    One image a target: |u - v|^2 of the unit vectors, which is 2 (1 - cosine), as clipping takes the scale.  Several:
    |sum of clipped gradients - sent|^2 / |sent|^2, as the attacker then says how many are held.

    Args:
        model: the network, its weights known; float64 here.
        sent: float64 [targets, parameters], a class's row of a message for each target.
        labels: int64 [targets].
        info: image shape and normalisation.
        max_norm: C, to which each image's gradient is clipped before they are summed, as the sender did; inf without.

    Attributes:
        low, high: float64 [C, 1, 1]: pixels 0 and 1 as the network sees them.
    """

    def __init__(self, model: nn.Module, sent: Tensor, labels: Tensor, info: DatasetInfo, max_norm: float) -> None:
        self._model, self._labels, self.image_shape, self._max_norm = model, labels, info.image_shape, max_norm
        corner = torch.zeros(info.image_shape[0], 1, 1)
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
            (image.grad,) = torch.autograd.grad(loss, image)
            return loss.detach()

        optimiser.step(closure)  # type: ignore[no-untyped-call]  # torch's own
        return image.detach(), objective.distances(image, own).detach()


@dataclass(frozen=True, eq=False)
class Inversion:
    """What one attack rebuilt, beside what was there; pixels in [0, 1].

    Args:
        protection: "no privacy", "clipping only" or "sigma = ...".
        labels: int64 [targets]; a target is a class of one client.
        originals: float32 [targets, C, H, W], the mean of the client's images of that class.
        guesses: the public class means, of the same form.
        rebuilt: the mean image of the restart with the lowest attack loss, of the same form.
        record: the figures.
    """

    protection: str
    labels: Tensor
    originals: Tensor
    guesses: Tensor
    rebuilt: Tensor
    record: AuditRecord


def gradient_inversion(
    clients: Sequence[ImageDataset],
    public: ImageDataset,
    spec: ModelSpec,
    noise_multiplier: float | None,
    attack: Attack,
    max_norm: float = 1.0,
    restarts: int = 1,
    images: int = 1,
    seed: int = 0,
) -> Inversion:
    """Images rebuilt from one message of each client, class by class: PSNR, SSIM, labels, and gain over a public guess.

    Messages are a real client's answers.  Those of clipping alone, which no client sends, are the sums that
    `gradients.clipped_class_sums` makes of them.  Every example is in the batch (q = 1), the worst case.

    The classes held are read as those with the longest rows of the message, told how many they are.  The search is then
    given the right labels, so a wrong reading does not make it look worse.

    Args:
        clients: what each client holds, at least one example; all of one form.
        public: examples that the attacker knows, of every class held; disjoint from what the clients hold.
        spec: the network whose gradients are asked for.
        noise_multiplier: sigma > 0 of the library's mechanism; 0 for clipping alone; None for plain gradients.
        attack: `CosineAttack` or `LBFGSAttack`.
        max_norm: C, wherever there is clipping.
        restarts: random starts; the one with the lowest attack loss counts, whatever the truth is.
        images: how many are searched for each class: the attacker's guess of how many are held.
        seed: of the public weights, of starts, and of the noise: the clients' ledgers therefore say "not private".

    Raises:
        ConfigurationError: sigma, C, restarts or seed are outside their range.
        DataError: no client, or one without examples; data of different form; a class that `public` lacks.
        ModelError: a network that no client would answer for.
    """
    require_count("restarts", restarts, "1 to 10 are usual.")
    require_count("images", images, "1 for single examples.")
    require_count("seed", seed, "Any whole number from 0 on.", at_least=0)
    plan = _plan(noise_multiplier, max_norm)
    if not clients or not all(map(len, clients)):
        raise DataError("no client, or one without examples", "clients with an example each", "Give what is attacked.")
    for held in clients:
        check_public(held, public)
    started, info, randomness = time.perf_counter(), public.info, InsecureRandomness(seed)
    spec.validate(info.image_shape, info.num_classes)
    model = spec.build(info.image_shape, info.num_classes, seed=seed)
    sent, labels, originals, read = [], [], [], 0
    for held in clients:
        if noise_multiplier == 0:
            values = clipped_class_sums(model, held.images, held.labels, info.num_classes, max_norm)
        else:
            values = _answer(held, spec, model, plan, randomness)
        own = torch.unique(held.labels)
        read += int(torch.isin(values.norm(dim=1).topk(len(own)).indices, own).sum())
        sent.append(values[own].to(torch.float64))
        labels.append(own)
        originals.append(_class_means(held, own))
    classes = torch.cat(labels)
    clipped_to = math.inf if noise_multiplier is None else max_norm
    objective = Objective(model.double(), torch.cat(sent), classes, info, clipped_to)
    best, failed = _best_of(restarts, attack, objective, images, seed)
    found = best.clamp(objective.low, objective.high).mean(dim=1)
    truth, guessed, rebuilt = (
        info.denormalise(own).clamp(0, 1).to(torch.float32)
        for own in (torch.cat(originals), _class_means(public, classes), found)
    )
    reached = psnr(rebuilt, truth)
    protection = NOTHING if noise_multiplier is None else f"sigma = {noise_multiplier:g}" if plan else CLIPPING
    record = AuditRecord(
        audit="gradient_inversion",
        claim=f"none: one message with {protection}",
        kind="descriptive",
        statistic=f"{attack.name}, starts a target: {restarts}; against {spec.name}",
        trials=len(classes),
        rejected=False,
        adversary="knows the network, its weights, which classes are held, and public examples of each class",
        assumptions="describes this attack on these images; where it fails, another may not",
        seconds=time.perf_counter() - started,
        seed=seed,
        figures={
            **_mean_and_spread("PSNR", reached),
            **_mean_and_spread("gain", reached - psnr(guessed, truth)),
            **_mean_and_spread("SSIM", ssim(rebuilt, truth)),
            "label accuracy": read / len(classes),
            "failed searches": failed,
            "sigma": plan.noise_multiplier if plan else 0.0,
            "epsilon": best_epsilon([plan.event], AIM) if plan else math.inf,
        },
    )
    return Inversion(protection, classes, truth, guessed, rebuilt, record)


def _plan(noise_multiplier: float | None, max_norm: float) -> PrivacyPlan | None:
    """What a client pins; None where nothing covers the gradients.  C is checked either way."""
    bare = noise_multiplier is None or (noise_multiplier == 0 and not isinstance(noise_multiplier, bool))
    sigma = 1.0 if noise_multiplier is None or bare else noise_multiplier
    plan = PrivacyPlan(sigma, 1.0, max_norm, 1.0, 1, AIM)
    return None if bare else plan


def _answer(
    held: ImageDataset, spec: ModelSpec, model: nn.Module, plan: PrivacyPlan | None, randomness: InsecureRandomness
) -> Tensor:
    """A client's message, float32 [classes, parameters]."""
    client, run = (
        Client("audited", held, randomness=randomness, allow_without_privacy=True),
        Run("audit", held.info, plan),
    )
    client.enroll(run)
    arguments = {"model": spec.to_json(), "granularity": "class"}
    query = Query(run.run_id, 0, "class_gradients", arguments, dict(model.state_dict()), plan)
    return client.answer(Query.from_bytes(query.data)).values


def _class_means(dataset: ImageDataset, labels: Tensor) -> Tensor:
    """The mean image of each class in `labels`, [n, C, H, W]."""
    return torch.stack([dataset.images[dataset.labels == label].mean(dim=0) for label in labels])


def _best_of(restarts: int, attack: Attack, objective: Objective, each: int, seed: int) -> tuple[Tensor, float]:
    """The images [targets, each, C, H, W] of the starts with the lowest losses, and the share of searches that failed.

    A search under heavy noise may run out of float64: a failure of the attack, shown as grey, and counted.
    """
    generator = torch.Generator().manual_seed(seed)
    found: list[tuple[Tensor, Tensor]] = []
    for _ in range(restarts):
        shape = (len(objective), each, *objective.image_shape)
        starts = 0.1 * torch.randn(shape, generator=generator, dtype=torch.float64)
        images, losses = attack.search(objective, starts)
        found.append((images.nan_to_num(), torch.where(images.flatten(1).isfinite().all(dim=1), losses, math.nan)))
    images, losses = (torch.stack(parts) for parts in zip(*found, strict=True))
    best = losses.nan_to_num(nan=math.inf).argmin(dim=0)
    return images[best, torch.arange(len(objective))], float(losses.isnan().to(torch.float64).mean())


def _mean_and_spread(name: str, values: Tensor) -> dict[str, float]:
    """The mean over targets, and their standard deviation; 0 for a single one."""
    spread = float(values.std()) if len(values) > 1 else 0.0
    return {name: float(values.mean()), f"{name} spread": spread}
