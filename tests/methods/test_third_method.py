"""A third method, with a question of its own, works everywhere without an edit: from fit to audit."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from wiring import PerClient

import private_distdd.baselines  # noqa: F401 - they register themselves
from private_distdd.cli import main
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.load import load_dataset
from private_distdd.errors import CheckpointError, ComputationError, QueryRefusedError
from private_distdd.methods import register as methods
from private_distdd.methods.register import method_named, registered_methods
from private_distdd.privacy.events import SampledGaussian
from private_distdd.privacy.ledger import Charge, Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.questions import register as questions
from private_distdd.release.release import Release
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

PRIVACY = Privacy(target_epsilon=4.0, max_grad_norm=5.0)
MakeImages = Callable[..., ImageDataset]


@pytest.fixture(scope="module")
def third() -> Iterator[Any]:
    """The method's module, registered for this file's tests alone."""
    before = dict(methods._METHODS), dict(questions.QUESTIONS), dict(questions.PRIVATE_QUESTIONS)
    import third

    # Imported once a process: what it registered is put back, and taken away again.
    methods._METHODS["meanpixels"] = third.MeanPixels
    for name, made in (("class_pixels", third.ClassPixels), ("class_pixels_thrice", third.ClassPixelsThrice)):
        questions.QUESTIONS[name] = questions.PRIVATE_QUESTIONS[name] = made
    yield third
    for registry, kept in zip(
        (methods._METHODS, questions.QUESTIONS, questions.PRIVATE_QUESTIONS), before, strict=True
    ):
        registry.clear()
        registry.update({name: made for name, made in kept.items() if made.__module__ != "third"})


@pytest.fixture(scope="module")
def release(third: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    train, _ = load_dataset("digits")
    found = third.MeanPixels(privacy=PRIVACY).fit(dirichlet_split(train, 4, math.inf, seed=0))
    return found.save(tmp_path_factory.mktemp("third") / "release")


def test_it_is_found_by_name(third: Any) -> None:
    assert registered_methods() == ("collabdm", "distdd", "fedavg", "feddgm", "fedprox", "meanpixels")
    assert method_named("MeanPixels") is third.MeanPixels


def test_its_release_verifies(release: Path) -> None:
    found = Release.load(release)
    found.verify()
    assert found.private
    assert max(found.epsilon.values()) <= 4.0 * (1 + 1e-6)
    assert found.card["method"]["name"] == "MeanPixels"
    assert set(found.card["method"]["settings"]) == {
        *("rounds", "privacy", "aggregator", "quorum", "deadline", "message_format", "device", "seed")
    }
    assert {bill["messages_used"] for bill in found.card["clients"].values()} == {2}
    card = {**found.card, "progress": {**found.card["progress"], "rounds_done": 3}}
    assert Release(found.dataset, card, found.ledgers).failures()


def test_its_s_is_the_mean_of_what_came(third: Any, make_images: MakeImages) -> None:
    data = make_images(12)
    method = third.MeanPixels(rounds=3, privacy=Privacy(noise_multiplier=1e-4, max_grad_norm=50.0), aggregator="sum")
    images = method.fit([Client("a", data)]).dataset.images
    expected = torch.stack([data.images[data.labels == c].sum(dim=0) for c in range(3)])
    assert float((images - expected).abs().max()) < 0.05


def test_it_goes_on_from_its_checkpoint(third: Any, make_images: MakeImages, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    class Mortal(PerClient):
        left = 3

        def ask(self, client_id: str, query: bytes) -> bytes:
            self.left -= 1
            if self.left < 0:
                raise Killed
            return super().ask(client_id, query)

    def federation(folder: Path) -> list[Client]:
        folder.mkdir(exist_ok=True)
        return [Client(n, make_images(6, i), Ledger(folder / f"{n}.jsonl")) for i, n in enumerate("ab")]

    method, info = third.MeanPixels(rounds=3, privacy=PRIVACY), make_images(1).info
    own = federation(tmp_path / "ledgers")
    with pytest.raises(Killed):
        method.fit(Mortal(own), info=info, checkpoint=tmp_path / "run")
    for client in own:
        client.ledger.close()
    with pytest.raises(CheckpointError, match="rounds"):
        third.MeanPixels(rounds=4, privacy=PRIVACY).fit(own, checkpoint=tmp_path / "run", resume=True)
    own = federation(tmp_path / "ledgers")
    found = method.fit(own, checkpoint=tmp_path / "run", resume=True)
    found.verify()
    assert {bill["charges"] for bill in found.card["clients"].values()} == {3}
    for client in own:
        client.ledger.close()


def test_the_command_line_takes_it(third: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "release"
    command = ["distill", "--method", "meanpixels", "--num-clients", "3", "--rounds", "2", "--target-epsilon", "8"]
    assert main([*command, "--output", str(output)]) == 0
    assert main(["verify", str(output)]) == 0
    assert "checks out" in capsys.readouterr().out
    card = json.loads((output / "card.json").read_text())
    assert (card["method"]["name"], card["progress"]["rounds_done"]) == ("MeanPixels", 2)
    with pytest.raises(SystemExit):
        main(["distill", "--method", "meanpictures", "--output", str(tmp_path / "other")])
    assert main([*command, "--ipc", "3", "--output", str(tmp_path / "other")]) == 2  # it has no such knob
    assert "--ipc" in capsys.readouterr().err


@pytest.mark.usefixtures("short_audit")
def test_audits_attack_its_messages(third: Any, release: Path, tmp_path: Path) -> None:
    """All that fit any question, and none that would take its messages for gradients."""
    assert main(["audit", str(release), "--quick", "--output", str(tmp_path / "audit")]) == 0
    found = json.loads((tmp_path / "audit" / "audit.json").read_text())
    names = {record["audit"] for record in found["records"]}
    assert {"canary_client", "replay_client", "client_check", "micro_batch_check", "observed_check"} <= names
    assert not any(name.startswith(("membership_gradient", "gradient_inversion")) for name in names)
    assert not found["rejected"]


# A query of several events


def several(make_images: MakeImages, **changes: Any) -> tuple[Client, Run, Query]:
    plan = Privacy(noise_multiplier=1.0, sample_rate=0.5).plan(2, **{"events_per_query": 3, **changes})
    own = Client("clinic", make_images(12))
    run = Run("run-1", make_images(1).info, plan)
    own.enroll(run)
    return own, run, Query("run-1", 0, "class_pixels_thrice", {}, {}, plan)


def test_a_query_of_three_events_is_charged_as_three(third: Any, make_images: MakeImages) -> None:
    own, run, query = several(make_images)
    own.answer(query)
    assert [entry.event for entry in own.ledger if isinstance(entry, Charge)] == [SampledGaussian(1.0, 0.5, 3)]
    own.answer(Query("run-1", 1, "class_pixels_thrice", {}, {}, run.plan))
    flat = Ledger(None)
    for number in range(6):
        flat.charge(SampledGaussian(1.0, 0.5), f"r:{number}")
    assert own.ledger.epsilon(1e-5) == flat.epsilon(1e-5)
    with pytest.raises(QueryRefusedError, match="charge 3"):
        own.answer(Query("run-1", 2, "class_pixels_thrice", {}, {}, run.plan))


def test_each_event_has_noise_and_coins_of_its_own(third: Any, make_images: MakeImages) -> None:
    own, _, query = several(make_images)
    measured: list[torch.Tensor] = []
    measure = Client._measured

    def spy(client: Client, *arguments: Any) -> Any:
        measured.append((yield from measure(client, *arguments)))
        return measured[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Client, "_measured", spy)
        message = own.answer(query)
    assert len(measured) == 3
    assert torch.equal(message.values, torch.stack(measured).mean(dim=0))
    assert not any(bool((measured[i] == measured[j]).any()) for i in range(3) for j in range(i))


@pytest.mark.parametrize("events", [1, 2, 4])
def test_a_plan_of_another_number_of_events_is_refused_for_nothing(
    third: Any, make_images: MakeImages, events: int
) -> None:
    own, _, query = several(make_images, events_per_query=events)
    with pytest.raises(QueryRefusedError, match="3 measurements"):
        own.answer(query)
    assert own.ledger.events == ()


def test_a_measurement_more_than_was_charged_does_not_leave(
    third: Any, make_images: MakeImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    def four_times(own: Any) -> Any:
        found = []
        for _ in range(4):
            found.append((yield own))
        return sum(found)

    monkeypatch.setattr(third.ClassPixelsThrice, "answer", four_times)
    own, _, query = several(make_images)
    with pytest.raises(ComputationError):
        own.answer(query)
    assert [entry.event for entry in own.ledger if isinstance(entry, Charge)] == [SampledGaussian(1.0, 0.5, 3)]
