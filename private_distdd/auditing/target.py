"""What is audited: a release, or a plan that nobody ran yet."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

from private_distdd.auditing.probe import Probe, about_embeddings, about_gradients
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.release import Release, manifest_hash

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
    def question(self) -> Probe:
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
