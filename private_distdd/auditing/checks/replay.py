"""Neighbours replayed on equal noise: one example moves a message by C / b at most."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.probe import Probe
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting, known_rows
from private_distdd.data.dataset import ImageDataset
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

_LITTLE = (
    2.0**-20
)  # sigma of replays, one lattice unit: the noise is the same in both worlds, and must not blur float32
_DIMENSION, _CRAFTED = 64, 300_000
_TINY = 168  # lattice units of each of the crafted gradient's small coordinates
_OVER = 1 + 1e-4  # the crafted gradient's true norm, in units of C; float32 norms take it for less than C


def _examples(background: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Hostile statistics for C = 1, by name; `background` is one group's rows."""
    generator = torch.Generator().manual_seed(0)
    natural = torch.randn(_DIMENSION, generator=generator) / 20
    yield "natural", natural
    yield "scaled by 50", 50 * natural
    yield "huge", 1e30 * natural
    yield "against its group", -100 * background.sum(dim=0)
    for name, value in (("NaN", math.nan), ("infinite", math.inf)):
        row = natural.clone()
        row[3] = value
        yield name, row


def _crafted() -> Tensor:
    """One large and 300,000 tiny coordinates on the lattice, of norm 1.0001: float32 sums lose the tiny squares."""
    row = torch.full((_CRAFTED + 1,), _TINY / LATTICE)
    row[0] = math.sqrt(_OVER**2 - _CRAFTED * (_TINY / LATTICE) ** 2)
    return row


def replay_sensitivity(setting: Setting, seed: int = 0) -> AuditRecord:
    """The same noise and coins with and without one example: one group moves by at most C / b, the others not at all.

    The claimed C and b are replaced by 1 and sigma by 2^-20, so that float32 holds the lattice integers exactly and the
    comparison has no tolerance.  The examples: natural, scaled by 50, huge, against its group's sum, with NaN, with
    infinity, and one of 300,001 lattice coordinates whose norm float32 underestimates.  With q = 1 an example must move
    the message, to the last bit, as it does where it is alone (A2): nothing but sums of rows is in it.

    Args:
        setting: what is attacked.
        seed: of the noise and coins that both worlds share.
    """
    started = time.perf_counter()
    findings, worst, compared = [], 0.0, 0
    generator = torch.Generator().manual_seed(1)
    background = torch.randn(6, _DIMENSION, generator=generator) / 20
    groups = torch.tensor([0, 0, 1, 1, 2, 2])
    cases = [(name, background, row) for name, row in _examples(background[2:4])]
    cases.append(("crafted against float32 norms", torch.zeros(6, _CRAFTED + 1), _crafted()))
    for rate in {setting.sample_rate, 1.0}:
        for name, held, row in cases:
            dimension = held.shape[1]
            # The example comes last in the batch; sums of integers do not see the order.
            worlds = [
                setting.mechanism(_LITTLE, rate, 1.0, 1.0)(
                    len(rows), known_rows(rows, own), 3, dimension, InsecureRandomness(seed)
                ).to(torch.float64)
                for rows, own in (
                    (held, groups),
                    (torch.cat([held, row[None]]), torch.cat([groups, torch.tensor([1])])),
                )
            ]
            moved = worlds[1] - worlds[0]
            compared += 1
            if rate == 1:
                alone, nothing = (
                    setting.mechanism(_LITTLE, rate, 1.0, 1.0)(
                        n, known_rows(row[None], torch.tensor([1])), 3, dimension, InsecureRandomness(seed)
                    ).to(torch.float64)
                    for n in (1, 0)
                )
                if not torch.equal(moved, alone - nothing):
                    findings.append(f"{name}: the example moves the message otherwise than it does alone")
            if not bool(torch.isfinite(moved).all()):
                findings.append(f"{name}: the message is not finite")
                continue
            distance = math.sqrt(float(moved.square().sum()))
            worst = max(worst, distance)
            if float(moved.square().sum()) > 1.0:
                findings.append(f"{name}: one example moves the message by {distance:.6g} C / b")
            if bool(moved[[0, 2]].any()):
                findings.append(f"{name}: the message moves in groups that the example is not in")
    return certain(
        "replay_sensitivity",
        started,
        findings,
        claim="one example moves one group of a message by at most C / b",
        statistic="norm of the difference of two messages with equal noise and coins",
        trials=compared,
        adversary="adds one example of their choice",
        assumptions="the examples tried; nothing is said about others",
        seed=seed,
        figures={"largest move in C / b": worst},
    )


def replay_client(
    background: ImageDataset,
    example: tuple[Tensor, int],
    question: Probe,
    seed: int = 0,
    make: Callable[..., Client] = Client,
) -> AuditRecord:
    """`replay_sensitivity` end to end: real clients with and without the example; honest, huge and NaN tensors.

    The example comes as it is and scaled by 50.  C = b = q = 1 and sigma = 2^-20.  It moves one group by at most C / b,
    the others not at all; as much, to the last bit, beside the background as alone; and with honest tensors each block
    of a row (see `Question.blocks`) by what its clipped row says.

    Args:
        background: what the clients hold; at most 10 examples of a class, so that float32 stays exact.
        example: image float32 [C, H, W], and label.
        question: what both are asked.
        seed: of the noise that all share; the clients' ledgers therefore say "not private".
        make: the clients: `Client`, or what takes its place.
    """
    started = time.perf_counter()
    info, (image, label) = background.info, example
    questions = question.hostile()
    plan = PrivacyPlan(_LITTLE, 1.0, 1.0, 1.0, len(questions), delta=1e-5)
    run = Run("replay", info, plan)
    findings, worst = [], 0.0

    (_, group), blocks = question.row(image, label, info), question.blocks(info)

    def messages(images: Tensor, labels: Tensor) -> list[Tensor]:
        client = make("audited", ImageDataset(images, labels, info), randomness=InsecureRandomness(seed))
        client.enroll(run)
        queries = (asked.query(run, i) for i, asked in enumerate(questions.values()))
        return [client.answer(query).values.to(torch.float64) for query in queries]

    without = messages(background.images, background.labels)
    nothing = messages(background.images[:0], background.labels[:0])
    for scale in (1.0, 50.0):
        own, target = scale * image[None], torch.tensor([label])
        beside = messages(torch.cat([background.images, own]), torch.cat([background.labels, target]))
        alone = messages(own, target)
        for name, *told in zip(questions, beside, without, alone, nothing, strict=True):
            moved = told[0] - told[1]
            where = f"{name} tensors, image times {scale:g}"
            squared = float(moved.square().sum())
            worst = max(worst, math.sqrt(squared))
            if not squared <= 1.0:
                findings.append(f"{where}: moved by {math.sqrt(squared):.6g} C / b")
            if bool(moved[torch.arange(len(moved)) != group].any()):
                findings.append(f"{where}: other classes moved")
            if not torch.equal(moved, told[2] - told[3]):
                findings.append(f"{where}: it moves the message otherwise than it does alone")
            if name == "honest":
                row, _ = question.row(own[0], label, info)
                row = row / max(1.0, float(row.norm()))
                findings += [
                    f"{where}: block {block!r} is not moved by its part of the clipped row"
                    for block, part in blocks.items()
                    if not float((moved[group, part] - row[part]).abs().max()) <= 2 * _LITTLE
                ]
    return certain(
        "replay_client",
        started,
        findings,
        claim="one example moves one class of a message by at most C / b",
        statistic="norm of the difference of two clients' messages with equal noise",
        trials=4 * len(questions),
        adversary="chooses one example and the query's tensors",
        assumptions="the examples and tensors tried; nothing is said about others",
        seed=seed,
        figures={"largest move in C / b": worst},
    )
