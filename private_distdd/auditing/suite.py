"""The audits that fit one release or plan, as `private-distdd audit` runs them, and the files they are written to."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from private_distdd.auditing.canary import Setting, canary_client, canary_gaussian, canary_single
from private_distdd.auditing.checks import replay_client, replay_sensitivity
from private_distdd.auditing.leaks import client_check, coin_check, noise_check, seed_check
from private_distdd.auditing.one_run import one_run
from private_distdd.auditing.page import render_audit
from private_distdd.auditing.records import AuditRecord
from private_distdd.auditing.runs import canary_run, components
from private_distdd.data.datasets import DatasetInfo, ImageDataset
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.models import ModelSpec
from private_distdd.privacy.spec import PrivacyPlan
from private_distdd.release import MANIFEST, Release
from private_distdd.storage import write_file

_CELLS = 20_000_000  # scores of a canary_run, a side: 160 MB
_CLIENT_MODEL = ModelSpec("mlp", {"width": 8, "depth": 1})
_PLAN_INFO = DatasetInfo("noise", 10, (1, 8, 8), (0.5,), (0.5,))


@dataclass(frozen=True)
class Target:
    """What is audited: the constants of a release, or of a plan that nobody ran yet.

    Args:
        name: the release's folder, or the plan's file.
        manifest: SHA-256 of the release's manifest, in hexadecimal; None for a plan.
        plan: the constants claimed.
        info: class list and image shape; the clients of end-to-end audits hold noise of this form.
    """

    name: str
    manifest: str | None
    plan: PrivacyPlan
    info: DatasetInfo

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
            digest = hashlib.sha256((source / MANIFEST).read_bytes()).hexdigest()
            return cls(str(path), digest, PrivacyPlan.from_json(release.card["plan"]), release.dataset.info)
        try:
            record = json.loads(source.read_bytes())
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path}: {error}", "a release folder, or a plan as JSON", "Check the path.") from error
        return cls(str(path), None, PrivacyPlan.from_json(record), _PLAN_INFO)


def audit(target: Target, quick: bool = False, seed: int = 0) -> list[AuditRecord]:
    """The audits of messages under the target's own sigma, q, C, b and T_max; the deterministic ones first.

    Args:
        target: what is audited.
        quick: ten times fewer trials; under a minute on one core.
        seed: of noise and coins of the statistical audits.
    """
    plan, info = target.plan, target.info
    constants = plan.noise_multiplier, plan.sample_rate, plan.max_grad_norm, plan.divisor
    once, run = Setting(*constants), Setting(*constants, rounds=plan.max_queries)
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn((7, *info.image_shape), generator=generator)
    background = ImageDataset(images[:6], 1 + torch.arange(6) % max(1, info.num_classes - 1), info)
    canary = images[6], 0
    less = 10 if quick else 1
    records = [
        replay_sensitivity(run, seed),
        replay_client(background, canary, _CLIENT_MODEL, seed),
        seed_check(once),
        client_check(background, _CLIENT_MODEL),
        noise_check(once, seed),
        coin_check(once, seed),
        canary_single(once, 100_000 // less, seed),
        canary_client(background, canary, _CLIENT_MODEL, once, 1000, seed),
        one_run(run, seed=seed),
        components(run, 1_000_000 // less, seed),
        canary_run(run, max(1000, min(200_000 // less, _CELLS // plan.max_queries)), seed),
    ]
    if plan.sample_rate == 1:
        records.insert(6, canary_gaussian(once, 10_000, seed))
    return records


def report(target: Target, records: Sequence[AuditRecord]) -> Mapping[str, Any]:
    """The content of audit.json."""
    return {
        "format": "private_distdd.audit/1",
        "target": target.name,
        "manifest": target.manifest,
        "plan": target.plan.to_json(),
        "rejected": any(record.rejected for record in records),
        "records": [record.to_json() for record in records],
    }


def write_report(target: Target, records: Sequence[AuditRecord], folder: str | Path) -> Path:
    """audit.json and audit.html in a new folder, beside the release and never in it.

    Raises:
        ConfigurationError: the folder exists.
        ReleaseError: it cannot be written.
    """
    place = Path(folder)
    if place.exists():
        raise ConfigurationError(f"{place} exists", "a new folder", "Choose another --output.")
    content = report(target, records)
    try:
        place.mkdir(parents=True)
        write_file(place / "audit.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
        write_file(place / "audit.html", render_audit(content).encode())
    except OSError as error:
        raise ReleaseError(f"{place} cannot be written: {error}", "a writable place", "Write elsewhere.") from error
    return place
