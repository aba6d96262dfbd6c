"""The audits that fit one release or plan, as `private-distdd audit` runs them, and the files they are written to."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from private_distdd.auditing.budget import filter_check
from private_distdd.auditing.canary import Setting, canary_client, canary_gaussian, canary_single, clients
from private_distdd.auditing.checks import answered, replay_client, replay_sensitivity, retry_check
from private_distdd.auditing.coins import client_coin_check, coin_check, drawn_rate, stream_check, threshold_check
from private_distdd.auditing.inversion import Inversion, LBFGSAttack, gradient_inversion
from private_distdd.auditing.leaks import client_check, guess_check, seed_check
from private_distdd.auditing.membership import membership_gradient
from private_distdd.auditing.noise import LARGE, client_noise_check, message_check, noise_check
from private_distdd.auditing.observed import observed_check
from private_distdd.auditing.one_run import one_run, one_run_tradeoff
from private_distdd.auditing.page import render_audit
from private_distdd.auditing.question import Question, about_embeddings, about_gradients
from private_distdd.auditing.records import GATE_ALPHA, AuditRecord, as_json
from private_distdd.auditing.restart import restart_check
from private_distdd.auditing.rows import micro_batch_check, norm_check
from private_distdd.auditing.runs import canary_run, components
from private_distdd.data.datasets import DatasetInfo, ImageDataset, load_dataset
from private_distdd.embeddings import EmbeddingSpec
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.models import ModelSpec
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.release import Release, manifest_hash
from private_distdd.storage import write_file

_CELLS = 20_000_000  # scores of a canary_run, a side: 160 MB
_CLIENT_MODEL = ModelSpec("mlp", {"width": 8, "depth": 1})
_MEMBERSHIP_MODEL = ModelSpec("mlp", {"width": 16, "depth": 1})
_INVERTED_MODEL = ModelSpec("convnet", {"width": 16, "norm": "group", "activation": "tanh"})
_PLAN_INFO = DatasetInfo("noise", 10, (1, 8, 8), (0.5,), (0.5,))


@dataclass(frozen=True)
class Target:
    """What is audited: the constants of a release, or of a plan that nobody ran yet.

    Args:
        name: the release's folder, or the plan's file.
        manifest: SHA-256 of the release's manifest, in hexadecimal; None for a plan.
        plan: the constants claimed.
        info: class list and image shape; the clients of end-to-end audits hold noise of this form.
        method: whose messages; by the card.
    """

    name: str
    manifest: str | None
    plan: PrivacyPlan
    info: DatasetInfo
    method: str = "DistDD"

    @property
    def asks_gradients(self) -> bool:
        """Are its messages gradients?  Inversion and membership attack no others."""
        return self.method != "CollabDM"

    @property
    def question(self) -> Question:
        """What the clients of end-to-end audits are asked: the method's statistic, by a small network."""
        if self.asks_gradients:
            return about_gradients(_CLIENT_MODEL, self.info)
        return about_embeddings(EmbeddingSpec(_CLIENT_MODEL, (0, 1), 1, 0.5, 32, True))

    @classmethod
    def read(cls, path: str | Path) -> Target:
        """A release folder, which must verify, or a JSON file with the fields of `PrivacyPlan`.

        Raises:
            ReleaseError: the release cannot be read, or does not verify.
            ConfigurationError: the plan is malformed, or the release claims nothing.
        """
        source = Path(path)
        if source.is_dir():
            release = Release.load(source)
            release.verify()
            if release.card["plan"] is None:
                raise ConfigurationError(f"{path}, a release without privacy", "a claim", "There is nothing to refute.")
            plan, method = PrivacyPlan.from_json(release.card["plan"]), release.card["method"]["name"]
            return cls(str(path), manifest_hash(source), plan, release.dataset.info, method)
        try:
            record = json.loads(source.read_bytes())
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path}: {error}", "a release folder, or a plan as JSON", "Check the path.") from error
        return cls(str(path), None, PrivacyPlan.from_json(record), _PLAN_INFO)


def audit(target: Target, quick: bool = False, seed: int = 0) -> list[AuditRecord]:
    """The audits of messages under the target's own sigma, q, C, b and T_max; the deterministic ones first.

    Args:
        target: what is audited.
        quick: ten times fewer trials, and of clients' own messages half as many, single ones only; under a minute.
        seed: of noise and coins of the statistical audits.
    """
    plan, info, question = target.plan, target.info, target.question
    constants = plan.noise_multiplier, plan.sample_rate, plan.max_grad_norm, plan.divisor
    once, run = Setting(*constants), Setting(*constants, rounds=plan.max_queries)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((7, *info.image_shape), generator=generator)
    background = ImageDataset(images[:6], 1 + torch.arange(6) % max(1, info.num_classes - 1), info)
    canary = images[6], 0
    less = 10 if quick else 1
    drawn = dataclasses.replace(once, sample_rate=drawn_rate(once.sample_rate))
    records = [
        replay_sensitivity(run, seed),
        norm_check(once),
        answered(replay_client, background, canary, question, seed),
        answered(micro_batch_check),
        answered(retry_check),
        threshold_check(once),
        filter_check(),
        seed_check(once),
        guess_check(once),
        answered(client_check, background, question),
        restart_check(),
        observed_check(seed=seed),
        noise_check(once, seed),
        message_check(once, seed, values=LARGE if quick else 4 * LARGE),
        answered(client_noise_check, once, seed),
        *([coin_check(once, seed)] if drawn != once else []),
        coin_check(drawn, seed),
        answered(client_coin_check, once, seed),
        stream_check(once, seed),
        *([canary_gaussian(once, 10_000, seed)] if plan.sample_rate == 1 else []),
        canary_single(once, 100_000 // less, seed),
        canary_client(background, canary, question, once, 500 if quick else 1000, seed),
        one_run(run, seed=seed),
        one_run_tradeoff(run, seed=seed),
        components(run, 1_000_000 // less, seed),
        *(
            membership_gradient(*_parted(digits_like(info), 40), _MEMBERSHIP_MODEL, attacked, 2000 // less, seed)
            for attacked in ((None, once) if target.asks_gradients else ())  # without privacy: does it work at all?
        ),
        canary_run(run, max(1000, min(200_000 // less, _CELLS // plan.max_queries)), seed),
    ]
    if not quick:
        source, short = clients(background, canary, question), Setting(*constants, rounds=min(10, plan.max_queries))
        records.append(components(short, 1000, seed, source=source))
        records.append(canary_run(short, 100, seed, source=source))
    return records


def invert(target: Target, quick: bool = False, seed: int = 0) -> list[Inversion]:
    """Digits rebuilt from one message without privacy, with clipping alone, and with several sigma, the target's too.

    Args:
        target: sigma and C are its own; the images are public.
        quick: fewer digits and steps; some seconds.
        seed: of weights, starts and noise.
    """
    if not target.asks_gradients:
        return []
    plan = target.plan
    private, public = _parted(digits_like(target.info), 40)
    drawn = [
        int(torch.nonzero(private.labels == label)[0]) for label in torch.unique(private.labels)[: 3 if quick else 6]
    ]
    clients = [ImageDataset(private.images[i : i + 1], private.labels[i : i + 1], private.info) for i in drawn]
    attack = LBFGSAttack(60 if quick else 300)
    return [
        gradient_inversion(clients, public, _INVERTED_MODEL, sigma, attack, plan.max_grad_norm, seed=seed)
        for sigma in (None, 0.0, *sorted({0.1, 1.0, plan.noise_multiplier}))
    ]


def digits_like(info: DatasetInfo) -> ImageDataset:
    """scikit-learn's digits, 8 x 8, with the classes, channels and normalisation of `info`."""
    digits = load_dataset("digits")[0]
    channels = info.image_shape[0]
    own = DatasetInfo("digits", info.num_classes, (channels, *digits.info.image_shape[1:]), info.mean, info.std)
    kept = digits.labels < info.num_classes
    pixels = digits.info.denormalise(digits.images[kept]).expand(-1, channels, -1, -1)
    return ImageDataset(own.normalise(pixels), digits.labels[kept], own)


def _parted(dataset: ImageDataset, count: int) -> tuple[ImageDataset, ImageDataset]:
    """The first `count` examples and up to 400 of the others: attacked, and public."""
    first, others = slice(count), slice(count, count + 400)
    attacked, public = (
        ImageDataset(dataset.images[part], dataset.labels[part], dataset.info) for part in (first, others)
    )
    return attacked, public


def gate_bounds(record: AuditRecord) -> list[tuple[float, float, float]]:
    """(delta, lower bound, upper bound) of a record that bounds a finite claim, the lower one at the gate's level.

    A correct mechanism passes the truth at 95 % in one run of twenty, here in one of ten thousand.
    """
    pairs = zip(record.gate_lower, record.upper, strict=True) if record.gate_lower else ()
    return [(delta, low, high) for (delta, low), (_, high) in pairs if math.isfinite(high)]


def refuted(records: Sequence[AuditRecord]) -> bool:
    """Did a gate reject, or does a rigorous lower bound at the gate's level exceed its upper bound?"""
    crossed = any(low > high for record in records for _, low, high in gate_bounds(record))
    return crossed or any(record.rejected for record in records)


def report(target: Target, records: Sequence[AuditRecord]) -> Mapping[str, Any]:
    """The content of audit.json."""
    bounds = [
        {"audit": record.audit, "delta": delta, "lower": as_json(low), "upper": as_json(high), "holds": low <= high}
        for record in records
        for delta, low, high in gate_bounds(record)
    ]
    return {
        "format": "private_distdd.audit/1",
        "target": target.name,
        "manifest": target.manifest,
        "plan": target.plan.to_json(),
        "rejected": refuted(records),
        "gate": {"alpha": GATE_ALPHA, "bounds": bounds},
        "records": [record.to_json() for record in records],
    }


def write_report(
    target: Target, records: Sequence[AuditRecord], folder: str | Path, inversions: Sequence[Inversion] = ()
) -> Path:
    """audit.json and audit.html in a new folder, beside the release and never in it.

    Args:
        target: what was audited.
        records: what was found; those of `inversions` come behind them.
        folder: does not exist yet.
        inversions: attacks with pictures, all on the same images.

    Raises:
        ConfigurationError: the folder exists.
        ReleaseError: it cannot be written.
    """
    place = Path(folder)
    if place.exists():
        raise ConfigurationError(f"{place} exists", "a new folder", "Choose another --output.")
    content = report(target, [*records, *(inversion.record for inversion in inversions)])
    try:
        place.mkdir(parents=True)
        write_file(place / "audit.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        write_file(place / "audit.html", render_audit(content, inversions).encode())
    except OSError as error:
        raise ReleaseError(f"{place} cannot be written: {error}", "a writable place", "Write elsewhere.") from error
    return place
