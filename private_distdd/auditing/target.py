"""What is audited: a release, or a plan that nobody ran yet."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from private_distdd import baselines as _baselines  # noqa: F401 - they register themselves
from private_distdd.auditing.probe import Probe, attacks_of, usual_probe
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.methods import method_named
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.questions.audited import SpecificAttack
from private_distdd.release.release import Release, manifest_hash

_PLAN_QUESTION = "class_gradients"  # a plan says nothing of what is asked: the question that most attacks fit
_PLAN_INFO = DatasetInfo("noise", 10, (1, 8, 8), (0.5,), (0.5,))


@dataclass(frozen=True)
class Target:
    """What is audited: the constants of a release, or of a plan that nobody ran yet.

    Args:
        name: the release's folder, or the plan's file.
        manifest: SHA-256 of the release's manifest, in hexadecimal; None for a plan.
        plan: the constants claimed.
        info: class list and an example's shape; the clients of end-to-end audits hold noise of this form.
        asks: the registered question that its messages answer.

    Raises:
        ConfigurationError: a query of the plan takes several events.
    """

    name: str
    manifest: str | None
    plan: PrivacyPlan
    info: DatasetInfo
    asks: str = _PLAN_QUESTION

    def __post_init__(self) -> None:
        if self.plan.events_per_query != 1:  # else a smaller schedule than the plan's would be audited, unsaid
            raise ConfigurationError(
                f"events_per_query = {self.plan.events_per_query} in a plan to be audited",
                "1",
                "Audit the schedule of so many queries of one event, as `Target.read` does: it has the same price.",
            )

    @property
    def attacks(self) -> frozenset[SpecificAttack]:
        """Which of the attacks that fit some questions only fit its own.

        Raises:
            ConfigurationError: the question is not registered, or does not say how it is audited.
        """
        return attacks_of(self.asks)

    @property
    def question(self) -> Probe:
        """What the clients of end-to-end audits are asked: the question in its usual form, small.

        Raises:
            ConfigurationError: as `attacks`.
        """
        return usual_probe(self.asks, self.info)

    @classmethod
    def read(cls, path: str | Path) -> Target:
        """A release folder, which must verify, or a JSON file with the fields of `PrivacyPlan`.

        A release's messages answer the question of the method that its card names; a plan's are taken for gradients.
        Where a query takes several events, each is attacked as a query of its own: at the same price, an adversary who
        sees every noisy sum, and not only what a message makes of them.
        A run that asks several questions is attacked at the method's own one: of CollabDM's, at embeddings and not at
        the teacher's gradients, which a release of DistDD is attacked at.

        Raises:
            ReleaseError: the release cannot be read, or does not verify.
            ConfigurationError: the plan is malformed, the release claims nothing, or no method of the card's name is
                registered here: then nobody knows what its messages are.
        """
        source = Path(path)
        if source.is_dir():
            release = Release.load(source)
            release.verify()
            if release.card["plan"] is None:
                raise ConfigurationError(f"{path}, a release without privacy", "a claim", "There is nothing to refute.")
            plan, method = PrivacyPlan.from_json(release.card["plan"]), method_named(release.card["method"]["name"])
            asks = method.asked(release.card["method"]["settings"])
            info = DatasetInfo.from_json(release.card["data"])
            return cls(str(path), manifest_hash(source), _by_event(plan), info, asks)
        try:
            record = json.loads(source.read_bytes())
        except (OSError, ValueError) as error:
            raise ReleaseError(f"{path}: {error}", "a release folder, or a plan as JSON", "Check the path.") from error
        return cls(str(path), None, _by_event(PrivacyPlan.from_json(record)), _PLAN_INFO)


def _by_event(plan: PrivacyPlan) -> PrivacyPlan:
    """The plan of as many events, one a query."""
    return dataclasses.replace(plan, max_queries=plan.max_queries * plan.events_per_query, events_per_query=1)
