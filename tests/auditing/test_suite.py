"""What `private-distdd audit` writes: a report that parses, a page that shows it, and an exit code that says it."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest

from private_distdd import DistDD, FedAvg, Privacy, cli, dirichlet_split
from private_distdd.auditing import suite
from private_distdd.auditing.attacks.canary import canary_single
from private_distdd.auditing.attacks.one_run import one_run
from private_distdd.auditing.checks.replay import replay_sensitivity
from private_distdd.auditing.report import files
from private_distdd.auditing.report.page import render_audit
from private_distdd.auditing.setting import Setting
from private_distdd.auditing.stand_ins import digits_like
from private_distdd.auditing.target import Target
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ReleaseError
from private_distdd.privacy.plan import PrivacyPlan
from private_distdd.release.folder import MANIFEST
from private_distdd.release.release import Release
from private_distdd.site.client import Client

PLAN = PrivacyPlan(1.5, 1.0, 2.0, 3.0, 3, 1e-5)  # q = 1: closed forms, so the test is quick


@pytest.fixture
def plan_file(tmp_path: Path) -> Path:
    path = tmp_path / "plan.json"
    path.write_text(json.dumps(PLAN.to_json()))
    return path


def small_release(digits: ImageDataset, privacy: Privacy | None, **knobs: Any) -> Release:
    own = {"ipc": 1, "rounds": 2, "matching_steps": 1, "model": "mlp", "model_args": {"width": 4}, "seed": 0}
    method = DistDD(**{**own, **knobs}, privacy=privacy)
    return method.fit([Client("clinic", ImageDataset(digits.images[:30], digits.labels[:30], digits.info))])


@pytest.mark.usefixtures("short_audit")
def test_the_command_writes_both_files(plan_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["audit", str(plan_file), "--quick"]) == 0
    folder = plan_file.with_name("plan-audit")
    content = json.loads((folder / "audit.json").read_text())
    assert content["plan"] == PLAN.to_json()
    assert not content["rejected"]
    names = {record["audit"] for record in content["records"]}
    assert {
        "replay_sensitivity",
        "norm_check",
        "replay_client",
        "micro_batch_check",
        "threshold_check",
        "filter_check",
        "restart_check",
        "observed_check",
        "message_check",
        "client_noise_check",
        "client_coin_check",
        "stream_check",
        "canary_gaussian",
        "canary_single",
        "canary_client",
        "components",
        "canary_run",
        "one_run",
        "membership_gradient",
        "gradient_inversion",
    } <= names
    assert content["gate"]["alpha"] == 1e-4
    checked = {bound["audit"] for bound in content["gate"]["bounds"]}
    assert checked == {"canary_single", "canary_client", "canary_run", "one_run", "membership_gradient"}
    assert all(bound["holds"] and bound["lower"] <= bound["upper"] for bound in content["gate"]["bounds"])
    page = (folder / "audit.html").read_text()
    assert "Not refuted" in page
    assert all(name in page for name in names)
    assert "http://" not in page
    assert "https://" not in page
    assert "data:image/png;base64," in page
    assert page.count("<svg") == 2  # membership without privacy, and under the claim
    assert "Was this example there?" in page
    assert "a lower bound of this kind passes the truth in up to 5 %" in " ".join(page.lower().split())
    assert "all do" in page
    assert "costs epsilon = 92 for one release" in page
    told = capsys.readouterr()
    assert "not rejected" in told.out
    last = [line for line in told.err.splitlines() if re.match(r"(audit|inversion) ", line)]
    assert [line.split(",")[0] for line in last if not line.startswith("audit 0/")][-3:] == [
        f"audit {len(content['records']) - 5}/{len(content['records']) - 5}",
        "inversion 0/5",
        "inversion 5/5",
    ]
    assert cli.main(["audit", str(plan_file), "--quick"]) == 2  # never overwritten


def test_a_release_is_named_by_its_manifest(digits: ImageDataset, tmp_path: Path) -> None:
    folder = small_release(digits, Privacy(noise_multiplier=1.0)).save(tmp_path / "run")
    target = Target.read(folder)
    assert target.plan.max_queries == 2
    assert target.info == digits.info
    content = files.report(target, [])
    assert len(content["manifest"]) == 64
    (folder / MANIFEST).write_text("{}")
    with pytest.raises(ReleaseError):
        Target.read(folder)


@pytest.mark.filterwarnings("ignore::private_distdd.errors.NotPrivateWarning")
def test_what_claims_nothing_cannot_be_audited(digits: ImageDataset, tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError):
        Target.read(small_release(digits, None).save(tmp_path / "open"))
    with pytest.raises(ReleaseError):
        Target.read(tmp_path / "absent.json")
    (tmp_path / "bad.json").write_text("[1]")
    with pytest.raises(ConfigurationError):
        Target.read(tmp_path / "bad.json")


def test_a_plan_of_several_events_a_query_is_not_audited_as_a_smaller_one(tmp_path: Path) -> None:
    plan = tmp_path / "plan.json"
    plan.write_text(json.dumps(Privacy(noise_multiplier=2.0).plan(3, 4).to_json()))
    by_event = Target.read(plan)
    plan.write_text(json.dumps(Privacy(noise_multiplier=2.0).plan(12).to_json()))
    assert by_event.plan == Target.read(plan).plan  # each event as a query of its own, at the same price
    assert by_event.plan.schedule.count == 12
    with pytest.raises(ConfigurationError, match="events_per_query = 4"):
        dataclasses.replace(by_event, plan=Privacy(noise_multiplier=2.0).plan(3, 4))


def test_a_baseline_s_release_is_audited_by_its_local_steps(digits: ImageDataset, tmp_path: Path) -> None:
    privacy = Privacy(noise_multiplier=1.0)
    method = FedAvg(rounds=2, local_steps=3, model="mlp", model_args={"width": 4}, privacy=privacy)
    target = Target.read(method.fit(dirichlet_split(digits, 2)).save(tmp_path / "network"))
    assert target.asks == target.question.question == "local_training"
    assert target.plan.schedule.count == 6


def test_a_release_of_several_networks_a_query_is_audited_by_what_was_asked(
    digits: ImageDataset, tmp_path: Path
) -> None:
    several = {"networks_per_query": 2, "reinit_every": 1, "network_steps": 0}
    privacy = Privacy(noise_multiplier=1.0)
    target = Target.read(small_release(digits, privacy, **several).save(tmp_path / "one"))
    assert target.asks == target.question.question == "class_gradients_at_seeds"
    assert target.attacks == frozenset()
    each = Target.read(small_release(digits, privacy, network_events="each", **several).save(tmp_path / "each"))
    assert each.plan.schedule.count == 2 * target.plan.schedule.count
    assert Target.read(small_release(digits, privacy).save(tmp_path / "lone")).asks == "class_gradients"


def test_a_bound_at_the_gate_above_the_claim_refutes_it_and_one_at_95_percent_does_not(plan_file: Path) -> None:
    record = canary_single(Setting(), 1000)
    by_chance = dataclasses.replace(record, lower=tuple((delta, 99.0) for delta, _ in record.lower))
    assert not files.refuted([by_chance])
    crossed = dataclasses.replace(record, gate_lower=tuple((delta, 99.0) for delta, _ in record.upper))
    assert not crossed.rejected
    assert files.refuted([record, crossed])
    target = Target.read(plan_file)
    assert files.report(target, [crossed])["rejected"]
    assert "REFUTED by canary_single (bound at delta" in render_audit(files.report(target, [crossed]))
    guessed = one_run(Setting(rounds=3))
    lucky = dataclasses.replace(guessed, gate_lower=((1e-6, 1.1),), upper=((1e-6, 1.0),))
    assert files.refuted([lucky])
    assert not files.refuted([guessed])


@pytest.mark.parametrize(
    ("info", "shape"),
    [
        (DatasetInfo("photos", 2, (3, 200, 100), (0.4, 0.5, 0.6), (0.2, 0.2, 0.2)), (3, 8, 8)),
        (DatasetInfo("dots", 100, (1, 3, 9)), (1, 8, 8)),
    ],
)
def test_public_digits_stand_for_any_images(info: DatasetInfo, shape: tuple[int, int, int]) -> None:
    digits = digits_like(info)
    assert digits.info.shape == shape
    assert set(digits.labels.tolist()) == set(range(min(10, info.num_classes)))
    pixels = digits.info.denormalise(digits.images)
    assert -1e-6 <= float(pixels.min()) < 0.1
    assert 0.9 < float(pixels.max()) <= 1 + 1e-6
    target = Target("photos", None, PLAN, info)
    found = suite.invert(target, quick=True)
    assert [item.protection for item in found] == [
        "no privacy",
        "clipping only",
        "sigma = 0.1",
        "sigma = 1",
        "sigma = 1.5",
    ]
    assert found[0].record.figures["gain"] > 10
    assert found[-1].record.figures["gain"] < 0


def test_a_page_has_no_section_for_an_attack_that_was_left_out_and_says_why(plan_file: Path) -> None:
    """CollabDM's messages are embeddings: the attacks on gradients do not read them."""
    target = dataclasses.replace(Target.read(plan_file), asks="class_embeddings")
    (attack,) = suite._memberships(target, Setting(), 1, 0)
    page = render_audit(files.report(target, [canary_single(Setting(), 100), attack()]))
    assert "Was this example there?" not in page
    assert "Images rebuilt" not in page
    shown = page.split("What was and what was not shown")[1].split("</ul>")[0]
    assert "membership_gradient was left out, for it does not read messages" in shown


def test_a_refuted_claim_is_said_on_the_page_and_escaped(plan_file: Path, tmp_path: Path) -> None:
    record = replay_sensitivity(Setting())
    bad = dataclasses.replace(record, rejected=True, findings=("<script>",))
    target = dataclasses.replace(Target.read(plan_file), name="<b>")
    folder = files.write_report(target, [bad, canary_single(Setting(), 100)], tmp_path / "out")
    page = (folder / "audit.html").read_text()
    assert "REFUTED by replay_sensitivity" in page
    assert "<script>" not in page
    assert "<b>" not in page.split("<h1>")[1].split("</h1>")[0]
    assert json.loads((folder / "audit.json").read_text())["rejected"]
    with pytest.raises(ConfigurationError):
        files.write_report(target, [bad], folder)
