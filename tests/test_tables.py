"""Tables from end to end: rows at clients, both methods with privacy, releases that verify, forgeries that do not."""

from __future__ import annotations

import hashlib
import json
import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from private_distdd import (
    Budget,
    Client,
    CollabDM,
    DatasetInfo,
    DistDD,
    ImageDataset,
    Ledger,
    ModelSpec,
    NotPrivateWarning,
    Privacy,
    PrivateDistDDError,
    Release,
    SyntheticDataset,
    dirichlet_split,
    evaluate,
    load_dataset,
    mislabel,
    shard_split,
)
from private_distdd.errors import ConfigurationError, DataError, ModelError, QueryRefusedError, ReleaseError
from private_distdd.limits import CONTROL_BYTES, FEATURES
from private_distdd.networks.micro_batch import micro_batches, padded
from private_distdd.release.folder import manifest_of
from private_distdd.server.record import RoundRecord
from private_distdd.wire.run import Run

ROOT = Path(__file__).parents[1]
TRAIN, TEST = load_dataset("wine")
Make = Callable[..., Any]


def distdd(**changes: Any) -> DistDD:
    privacy = Privacy(target_epsilon=8.0, delta=1e-5, max_grad_norm=0.3)
    return DistDD(**{"ipc": 5, "rounds": 3, "matching_steps": 15, "model": "mlp", "privacy": privacy} | changes)


def collabdm(**changes: Any) -> CollabDM:
    privacy = Privacy(target_epsilon=8.0, delta=1e-5, max_grad_norm=1.0)
    small = {"ipc": 5, "networks": 4, "frequencies": 64, "matching_steps": 150, "model": "mlp", "privacy": privacy}
    small |= {"embedding_rounds": 1, "teacher_rounds": 0, "refinement_rounds": 0}
    return CollabDM(**small | changes)


METHODS = {"DistDD": distdd, "CollabDM": collabdm}


def clients() -> list[Client]:
    return dirichlet_split(TRAIN, num_clients=3, alpha=1.0, seed=0)


@pytest.fixture(scope="module", params=METHODS)
def saved(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release folder of each method."""
    folder = tmp_path_factory.mktemp("tables") / "run"
    METHODS[request.param]().fit(clients()).save(folder)
    return folder


def sealed(folder: Path) -> Path:
    """The folder with its manifest computed anew, as a forger would."""
    files = (f for f in folder.rglob("*") if f.is_file() and f.name != "manifest.json")
    hashes = {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}
    (folder / "manifest.json").write_bytes(manifest_of(hashes))
    return folder


def copied(folder: Path, target: Path) -> Path:
    for file in folder.rglob("*"):
        if file.is_file():
            place = target / file.relative_to(folder)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(file.read_bytes())
    return target


def test_a_private_release_of_a_table_verifies_and_is_of_use(saved: Path) -> None:
    release = Release.load(saved)
    release.verify()
    assert release.private
    assert len(release.epsilon) == 3
    assert all(7.9 < epsilon <= 8.0 for epsilon in release.epsilon.values())
    dataset = release.dataset
    assert dataset.images.shape == (15, 13)
    assert dataset.info == TRAIN.info
    assert evaluate(dataset, TEST, model="mlp", seeds=range(2)).mean > 0.6  # a guess is right in 0.4
    card = json.loads((saved / "card.json").read_text())
    assert card["data"] == TRAIN.info.to_json()
    assert card["data"]["shape"] == [13]
    page = (saved / "card.html").read_text()
    assert "13 features" in page
    assert "3 classes, 5 rows each" in page
    assert "pixels" not in page


def test_a_preview_that_shows_something_else_is_noticed(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "copy")
    Release.load(sealed(folder)).verify()
    picture = np.array(Image.open(folder / "preview.png"))
    assert (picture == SyntheticDataset.load(folder / "synthetic.safetensors").grid()).all()
    dot = np.argwhere((picture != 255).any(axis=2) & (picture != 200).any(axis=2))[0]
    picture[tuple(dot)] = 255
    Image.fromarray(picture).save(folder / "preview.png")
    with pytest.raises(ReleaseError, match="preview"):
        Release.load(folder).verify()
    with pytest.raises(ReleaseError, match="preview"):
        Release.load(sealed(folder)).verify()


def test_another_s_under_the_same_picture_is_noticed(saved: Path, tmp_path: Path) -> None:
    folder = copied(saved, tmp_path / "copy")
    dataset = SyntheticDataset.load(folder / "synthetic.safetensors")
    dataset.images[:3] += 2
    dataset.save(folder / "synthetic.safetensors")
    with pytest.raises(ReleaseError, match=r"preview\.png does not show"):
        Release.load(sealed(folder)).verify()


def test_terms_of_a_table_are_pinned(saved: Path, tmp_path: Path) -> None:
    """A card that speaks of other public constants than the clients agreed to does not verify."""
    folder = copied(saved, tmp_path / "copy")
    dataset = SyntheticDataset.load(folder / "synthetic.safetensors")
    info = DatasetInfo("wine", 3, (13,), TRAIN.info.mean, tuple(2 * value for value in TRAIN.info.std))
    SyntheticDataset(dataset.images, dataset.labels, info).save(folder / "synthetic.safetensors")
    card = json.loads((folder / "card.json").read_text())
    card["data"] = info.to_json()
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(ReleaseError):
        Release.load(sealed(folder)).verify()


@pytest.mark.parametrize("method", METHODS)
def test_a_run_on_a_table_goes_on_from_its_checkpoint(method: str, tmp_path: Path) -> None:
    owners = clients()

    def stop(record: RoundRecord) -> None:
        if record.server_round == 1:
            raise RuntimeError("the machine died")

    make = METHODS[method]
    with pytest.raises(RuntimeError, match="died"):
        make().fit(owners, checkpoint=tmp_path / "c", on_round_end=stop)
    release = make().fit(owners, checkpoint=tmp_path / "c", resume=True)
    assert all(7.9 < epsilon <= 8.0 for epsilon in release.epsilon.values())
    release.save(tmp_path / "run")
    Release.load(tmp_path / "run").verify()


def test_starts_from_the_clients_own_rows_exist_without_privacy_only() -> None:
    options = {"privacy": None, "matching_steps": 3}
    with pytest.warns(NotPrivateWarning):
        real = distdd(initialization="real", rounds=1, matching_rate=1e-9, **options).fit(clients())
    known = {row.numpy().tobytes() for row in TRAIN.images}
    moved = real.dataset.images
    assert all(float((TRAIN.images - row).abs().amax(dim=1).min()) < 1e-4 for row in moved)
    with pytest.warns(NotPrivateWarning):
        local = collabdm(local_steps=20, **options).fit(clients())
    assert local.dataset.images.shape == (15, 13)
    for make in (distdd, collabdm):
        start = make().fit(clients()).dataset.images
        assert not known & {row.numpy().tobytes() for row in start}
    with pytest.raises(ConfigurationError, match="real"):
        distdd(initialization="real")
    with pytest.raises(ConfigurationError, match="local_steps"):
        collabdm(local_steps=1)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: distdd(model="convnet"), "'convnet' for rows of 13 features; allowed: images. Use 'mlp'"),
        (lambda: collabdm(model="convnet"), "'convnet' for rows of 13 features; allowed: images. Use 'mlp'"),
        (lambda: collabdm(pool=2), "pool = 2 for rows of 13 features"),
        (lambda: collabdm(partition=13), "partition = 13 for rows of 13 features"),
        (lambda: collabdm(augment=True), "augment = True for rows of 13 features"),
    ],
)
def test_what_needs_images_is_refused_before_anybody_is_asked(make: Make, says: str) -> None:
    owners = clients()
    with pytest.raises((ConfigurationError, ModelError), match=says):
        make().fit(owners)
    assert all(len(owner.ledger) == 0 or not owner.ledger.events for owner in owners)


def test_a_client_holds_to_the_form_of_its_data() -> None:
    rows = ImageDataset(TRAIN.images[:9], TRAIN.labels[:9], TRAIN.info)
    client = Client("winery", rows)
    plan = Privacy(target_epsilon=8.0, delta=1e-5).plan(1)
    client.enroll(Run("run", TRAIN.info, plan))
    for other in (DatasetInfo("wine", 3, (1, 1, 13)), DatasetInfo("wine", 3, (13,))):
        with pytest.raises(QueryRefusedError, match="a run on"):
            client.enroll(Run("other", other, plan))
    with pytest.raises(DataError, match=r"\[n, 1, 1, 13\]"):
        Client("winery", rows, info=DatasetInfo("wine", 3, (1, 1, 13)))


def test_own_tables_with_budgets(tmp_path: Path) -> None:
    """A CSV file at each of three sites; what leaves them fits their budgets, and nothing of a row is logged."""
    generator = torch.Generator().manual_seed(0)
    sites = []
    for i in range(3):
        kinds = torch.arange(30) % 2
        values = torch.randn((30, 2), generator=generator) * 10 + 50 + 30 * kinds[:, None]
        path = tmp_path / f"site-{i}.csv"
        lines = [f"{a:.3f},{b:.3f},{'well' if kind else 'ill'}\n" for (a, b), kind in zip(values, kinds, strict=True)]
        path.write_text("pulse,pressure,state\n" + "".join(lines))
        constants = {"classes": ["ill", "well"], "mean": [60, 60], "std": [20, 20], "name": "patients"}
        train, _ = load_dataset(path, label="state", **constants)
        sites.append(Client(f"site-{i}", train, Ledger(tmp_path / f"{i}.jsonl", Budget(8.0, 1e-5))))
    release = collabdm().fit(sites)
    release.save(tmp_path / "run")
    Release.load(tmp_path / "run").verify()
    assert all(site.ledger.epsilon(1e-5) <= 8.0 for site in sites)
    with pytest.raises(PrivateDistDDError):
        collabdm().fit(sites)


def test_the_constants_of_the_widest_table_fit_a_run() -> None:
    """Two numbers for each feature, written out in full, stay below what a client reads of a run."""
    worst = tuple(-1.2345678901234567e-100 * (1 + i / FEATURES) for i in range(FEATURES))
    info = DatasetInfo("x" * 256, 2, (FEATURES,), worst, tuple(-value for value in worst))
    run = Run("r" * 64, info, Privacy(target_epsilon=8.0, delta=1e-5).plan(1))
    data = run.to_bytes()
    assert len(data) > CONTROL_BYTES / 2
    assert Run.from_bytes(data) == run


def test_splits_and_mislabelling_take_tables() -> None:
    for owners in (shard_split(TRAIN, 3), mislabel(clients(), 0.5)):
        assert sum(len(owner._labels) for owner in owners) == len(TRAIN)
        assert all(owner.info == TRAIN.info for owner in owners)


def test_sampled_rows_of_a_table_keep_their_bits_beside_others() -> None:
    """A2 on a table: padding and company change nothing, at every number of features that is tried."""
    from private_distdd.questions.register import private_question

    for features in (1, 4, 13, 30, 47):
        info, spec = DatasetInfo("x", 3, (features,)), ModelSpec("mlp", {"width": 32})
        arguments = {"model": spec.to_json(), "granularity": "class"}
        state = dict(spec.build(info.shape, 3, seed=0).state_dict())
        question = private_question("class_gradients", arguments, state, info, "cpu")
        rows = torch.randn((70, features), generator=torch.Generator().manual_seed(features))
        labels = torch.arange(70) % 3
        whole = torch.cat([question.rows(*part)[:count] for *part, count in micro_batches(rows, labels)])
        assert len(whole) == 70
        for index in (0, 7, 63, 64, 69):
            alone = question.rows(*padded(rows[index : index + 1], labels[index : index + 1]))
            assert torch.equal(alone[0], whole[index])


def test_the_example_runs_in_its_quick_mode(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["tables", "--quick"])
    runpy.run_path(str(ROOT / "examples" / "tables.py"), run_name="__main__")
    printed = capsys.readouterr().out
    assert "client-02: epsilon = 8.00" in printed
    assert "trained on 30 rows of S" in printed
    assert "saved, loaded and verified" in printed
