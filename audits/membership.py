"""Can an example's membership be told from messages, and from the synthetic set?  AUC, and TPR at low FPR, beside what
the claim allows.

python audits/membership.py            about three and a half minutes on one core
python audits/membership.py --quick    fewer trials, under a minute
python audits/membership.py --dataset fashionmnist --root ROOT
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from torch import Tensor

from private_distdd.auditing.attacks.membership import membership_gradient
from private_distdd.auditing.attacks.synthetic import Distill, membership_synthetic
from private_distdd.auditing.report.records import AIM, AuditRecord
from private_distdd.auditing.setting import Setting
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import NotPrivateWarning
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.distdd_course import DistDDCourse
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import Privacy
from private_distdd.site.client import Client

POOL = 40
PUBLIC = 400
ROUNDS = 2


def distiller(info: DatasetInfo, privacy: Privacy | None, real_start: bool = False) -> Distill:
    """A small DistDD over one client; with `real_start` S starts from its images, which the library refuses to do."""
    method = DistDD(
        ipc=1,
        rounds=ROUNDS,
        model="mlp",
        model_args={"width": 8, "depth": 1},
        matching_steps=2,
        network_steps=0,
        privacy=privacy,
    )

    def distill(images: Tensor, labels: Tensor, seed: int) -> Tensor:
        client = Client("audited", ImageDataset(images, labels, info))
        own = dataclasses.replace(method, seed=seed)
        if not real_start:
            return own.fit([client]).dataset.images
        rng = np.random.default_rng(seed)
        drawn = [int(rng.choice(torch.nonzero(labels == c)[:, 0].numpy())) for c in range(info.num_classes)]
        with mock.patch.object(DistDDCourse, "_start", return_value=images[drawn]):
            return own.fit([client]).dataset.images

    return distill


def of_messages(train: ImageDataset, test: ImageDataset, trials: int, seed: int) -> list[tuple[str, bool, AuditRecord]]:
    """What is attacked, whether it is the library as it claims to be, and what was found."""
    pool = ImageDataset(train.images[:POOL], train.labels[:POOL], train.info)
    public = ImageDataset(test.images[:PUBLIC], test.labels[:PUBLIC], test.info)
    spec = ModelSpec("mlp", {"width": 64, "depth": 1})

    def audit(setting: Setting | None, centred: bool = True) -> AuditRecord:
        return membership_gradient(pool, public, spec, setting, trials, seed, centred=centred)

    return [
        ("messages, no privacy, plain inner product", False, audit(None, centred=False)),
        ("messages, no privacy", False, audit(None)),
        ("messages, sigma = 1", True, audit(Setting())),
        ("messages, sigma = 1, q = 0.5, T = 4", True, audit(Setting(sample_rate=0.5, rounds=4))),
    ]


def of_synthetic(train: ImageDataset, trials: int, seed: int, quick: bool) -> list[tuple[str, bool, AuditRecord]]:
    """As `of_messages`: three images of class 0 and one of class 1, with and without another of class 1."""
    info = dataclasses.replace(train.info, num_classes=2)
    held = torch.cat([torch.nonzero(train.labels == label)[:count, 0] for label, count in ((0, 3), (1, 2))])
    background = ImageDataset(train.images[held[:-1]], train.labels[held[:-1]], info)
    target = train.images[held[-1]], 1
    privacy = Privacy(noise_multiplier=5.0)
    events = [privacy.plan(ROUNDS).schedule]

    def audit(distill: Distill, claimed: bool = True) -> AuditRecord:
        return membership_synthetic(distill, background, target, events if claimed else None, trials, seed)

    rows: list[tuple[str, bool, Callable[[], AuditRecord]]] = [
        ("S from noise, sigma = 5", True, lambda: audit(distiller(info, privacy))),
        ("S from real images (refused), sigma = 5", False, lambda: audit(distiller(info, privacy, real_start=True))),
        ("S from noise, no privacy", False, lambda: audit(distiller(info, None), claimed=False)),
    ]
    return [(name, sound, run()) for name, sound, run in (rows[:2] if quick else rows)]


def show(rows: list[tuple[str, bool, AuditRecord]]) -> None:
    """A line for each record."""
    print(f"{'what is attacked':43}{'AUC':>5}  {'TPR (ceiling) at 1 %, at .1 % FPR':35}{'epsilon':18}verdict")
    for name, _, record in rows:
        figures = record.figures
        rates = ",  ".join(
            f"{figures[f'TPR at {rate} FPR']:.3f} ({figures[f'ceiling at {rate} FPR']:.3f})" for rate in ("1 %", ".1 %")
        )
        bound = f"{dict(record.lower)[AIM]:.2f} <= {dict(record.upper)[AIM]:.2f}"
        verdict = "REJECTED" if record.rejected else "not rejected"
        print(f"{name:43}{figures['AUC']:5.2f}  {rates:35}{bound:18}{verdict}")
    print("ceiling: what the claim allows.  epsilon: bound at 95 % <= accountant, at delta = 1e-5; rejection at 1e-4.")
    print("AUC and TPR describe these examples and this attack; chance alone may lift a TPR over its ceiling a little.")
    print("The verdict tests independent trials only.  An attack that fails proves nothing.")


def main() -> int:
    """1 where a claim of the library was rejected; a start from real images is expected to be."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dataset", default="digits", help="as for load_dataset (default digits)")
    parser.add_argument("--root", help="where torchvision's files are")
    parser.add_argument("--quick", action="store_true", help="fewer trials")
    parser.add_argument("--seed", type=int, default=0, help="of all public and reproducible randomness (default 0)")
    parser.add_argument("--output", metavar="FILE", default="membership.json", help="the records, as JSON")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore", NotPrivateWarning)
    train, test = load_dataset(options.dataset, root=options.root)
    rows = of_messages(train, test, 200 if options.quick else 1000, options.seed)
    rows += of_synthetic(train, 120 if options.quick else 400, options.seed, options.quick)
    show(rows)
    found = [{"attacked": name, **record.to_json()} for name, _, record in rows]
    Path(options.output).write_text(json.dumps(found, indent=2, allow_nan=False) + "\n")
    return int(any(sound and record.rejected for _, sound, record in rows))


if __name__ == "__main__":
    sys.exit(main())
