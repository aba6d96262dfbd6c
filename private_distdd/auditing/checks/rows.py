"""One example, one row (A2 and A3): by which sizes rows are computed, and what holds their norm if floats lie."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import torch
from torch import Tensor, nn
from torch.nn.modules.module import register_module_forward_pre_hook

from private_distdd.auditing.checks.outcome import certain
from private_distdd.auditing.probe import declared, every_question
from private_distdd.auditing.report.records import AuditRecord
from private_distdd.auditing.setting import Setting, known_rows
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.privacy.mechanism import LATTICE
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.privacy.randomness import InsecureRandomness
from private_distdd.site.client import Client
from private_distdd.wire.run import Run

_INFO = DatasetInfo("noise", 4, (1, 8, 8), (0.5,), (0.5,))
_SIZES = (0, 1, 2, 63, 64, 65, 130)  # around one micro-batch, and more of them
_LIES = (1.0, 1e-30, 0.0)  # norms reported in units of C, whatever the row is
_LITTLE = 1 / LATTICE


def micro_batch_check(make: Callable[..., Client] = Client) -> AuditRecord:
    """A question's rows, and every module of a client's networks, see batches of one size, whatever the client holds.

    Kernels choose by size how they add, so that an example's last bits may depend on how many ride along: what is
    padded to one size cannot.  `replay_client` compares the bits themselves; on many machines they are equal by luck.
    Nor may an empty batch be spared its micro-batch: what an answer takes would tell it from others.  Clients with 0 to
    130 examples, all in the batch, answer each registered question while the sizes are noted.

    Args:
        make: the clients: `Client`, or what takes its place.
    """
    started, findings, seen = time.perf_counter(), list[str](), 0
    generator = torch.Generator().manual_seed(0)
    images = torch.randn((max(_SIZES), *_INFO.shape), generator=generator)
    labels = torch.arange(len(images)) % _INFO.num_classes
    run = Run("sizes", _INFO, PrivacyPlan(1.0, 1.0, 1.0, 1.0, 1, delta=1e-5))
    for kind, question in every_question(_INFO).items():
        sizes: dict[int, set[int]] = {}
        asked: Any = declared(question.question)
        made = asked.rows
        for n in _SIZES:
            noted: set[int] = set()

            def note(module: nn.Module, arguments: tuple[Any, ...], noted: set[int] = noted) -> None:
                noted.update(len(part) for part in arguments[:1] if isinstance(part, Tensor) and part.ndim)

            def rows(own: Any, images: Tensor, labels: Tensor, made: Any = made, noted: set[int] = noted) -> Tensor:
                noted.add(len(images))
                found: Tensor = made(own, images, labels)
                return found

            client = make("audited", ImageDataset(images[:n], labels[:n], _INFO), randomness=InsecureRandomness(0))
            client.enroll(run)
            question.shape(_INFO)  # what a process does once, it has done now
            hook = register_module_forward_pre_hook(note)
            try:
                with mock.patch.object(asked, "rows", rows):
                    client.answer(question.query(run, 0))
            finally:
                hook.remove()
            sizes[n] = noted
        seen += len(sizes)
        if not set().union(*sizes.values()):
            findings.append(f"{kind}: no rows were asked for: this audit does not see how they are made")
        elif not sizes[0]:
            findings.append(f"{kind}: an empty batch computes nothing, and may be told from others by that")
        if len(set().union(*sizes.values())) > 1:
            told = ", ".join(f"{n} examples: {sorted(noted)}" for n, noted in sizes.items())
            findings.append(f"{kind}: micro-batches of several sizes ({told})")
    return certain(
        "micro_batch_check",
        started,
        findings,
        claim="how many examples ride along in a micro-batch is always the same",
        statistic="sizes of the batches that questions' rows, and modules, are called with",
        trials=seen,
        adversary="none: the auditor listens to the client's questions and networks",
        assumptions="rows are what the question's class computes in `rows`, and by modules of torch",
    )


def norm_check(setting: Setting) -> AuditRecord:
    """A row's norm is checked in integers: where the floating-point norm lies, an example still moves at most C / b.

    A fault is put in: torch reports norms of C, 10^-30 C and 0, whatever the rows are.  Rows of norm 1.5 C, of two
    coordinates of C each, and of 10^30 C must count as zero then.  This is no attack from outside: float64 norms are
    right on the machines that we know.  It shows that A3 does not rest on them.

    Args:
        setting: what is attacked, at C = b = q = 1 and sigma = 2^-20.
    """
    started, findings, worst = time.perf_counter(), list[str](), 0.0
    rows = {
        "1.5 C": torch.tensor([[1.5, 0.0, 0.0]]),
        "C in each of two coordinates": torch.tensor([[1.0, 1.0, 0.0]]),
        "10^30 C": torch.tensor([[1e30, 0.0, 1.0]]),
    }
    asked = 0
    measure = setting.mechanism(_LITTLE, 1.0, 1.0, 1.0)
    for name, row in rows.items():
        for lie in _LIES:

            def lying(given: Tensor, *_: Any, lie: float = lie, **__: Any) -> Tensor:
                nonlocal asked
                asked += 1
                return torch.full((len(given), 1), lie, dtype=torch.float64)

            with mock.patch.object(torch.linalg, "vector_norm", lying):
                one, other = (
                    measure(n, known_rows(row, torch.tensor([0])), 1, 3, InsecureRandomness(0)).to(torch.float64)
                    for n in (1, 0)
                )
            moved = float((one - other).square().sum()) ** 0.5
            worst = max(worst, moved)
            if not moved <= 1:
                findings.append(f"a row of {name}, reported as {lie:g} C long, moves the message by {moved:.6g} C / b")
    if not asked:
        findings.append("torch.linalg.vector_norm was never asked: this audit does not see how rows are clipped")
    return certain(
        "norm_check",
        started,
        findings[:10],
        claim="one example moves a message by at most C / b even where floating-point norms are wrong",
        statistic="norm of the difference of two messages with equal noise, under lying norms",
        trials=len(rows) * len(_LIES),
        adversary="none: the auditor puts a fault into torch.linalg.vector_norm",
        assumptions="norms are taken by torch.linalg.vector_norm",
        figures={"largest move in C / b": worst},
    )
