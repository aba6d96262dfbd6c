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

import torch
from torch import Tensor

from private_distdd.auditing.attacks.gradients import about_gradients, check_public
from private_distdd.auditing.attacks.optimisers import Attack, Objective
from private_distdd.auditing.attacks.similarity import psnr, ssim
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.inversion import Inversion
from private_distdd.auditing.report.records import AIM, AuditRecord
from private_distdd.data.dataset import ImageDataset
from private_distdd.errors import DataError
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.accountants import best_epsilon
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.questions.per_example import clipped_class_sums
from private_distdd.site.client import Client
from private_distdd.validate import is_real, require_count
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

NOTHING, CLIPPING = "no privacy", "clipping only"


def gradient_inversion(
    clients: Sequence[ImageDataset],
    public: ImageDataset,
    spec: ModelSpec,
    noise_multiplier: float | None,
    attack: Attack,
    max_grad_norm: float = 1.0,
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
        max_grad_norm: C, wherever there is clipping.
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
    plan = _plan(noise_multiplier, max_grad_norm)
    if not clients or not all(map(len, clients)):
        raise DataError("no client, or one without examples", "clients with an example each", "Give what is attacked.")
    for held in clients:
        check_public(held, public)
    started, info, randomness = time.perf_counter(), public.info, InsecureRandomness(seed)
    spec.validate(info.shape, info.num_classes)
    model, question = spec.build(info.shape, info.num_classes, seed=seed), about_gradients(spec, info, seed=seed)
    sent, labels, originals, read = [], [], [], 0
    for held in clients:
        if noise_multiplier == 0:
            values = clipped_class_sums(model, held.images, held.labels, info.num_classes, max_grad_norm)
        else:
            values = _answer(held, question, plan, randomness)
        own = torch.unique(held.labels)
        read += int(torch.isin(values.norm(dim=1).topk(len(own)).indices, own).sum())
        sent.append(values[own].to(torch.float64))
        labels.append(own)
        originals.append(_class_means(held, own))
    classes = torch.cat(labels)
    clipped_to = math.inf if noise_multiplier is None else max_grad_norm
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


def _plan(noise_multiplier: float | None, max_grad_norm: float) -> PrivacyPlan | None:
    """What a client pins; None where nothing covers the gradients.  C is checked either way."""
    bare = noise_multiplier is None or (is_real(noise_multiplier) and noise_multiplier == 0)
    sigma = 1.0 if noise_multiplier is None or bare else noise_multiplier
    plan = PrivacyPlan(sigma, 1.0, max_grad_norm, 1.0, 1, AIM)
    return None if bare else plan


def _answer(held: ImageDataset, question: Probe, plan: PrivacyPlan | None, randomness: InsecureRandomness) -> Tensor:
    """A client's message, float32 [classes, parameters]."""
    client, run = (
        Client("audited", held, randomness=randomness, allow_without_privacy=True),
        Run("audit", held.info, plan),
    )
    client.enroll(run)
    return client.answer(Query.from_bytes(question.query(run, 0).data)).values


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
        shape = (len(objective), each, *objective.shape)
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
