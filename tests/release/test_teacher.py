"""Soft labels and a classifier (teacher) in a release: said on the card, kept to the bit, and checked."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from releases import INFO, PRIVACY, Built, files_of, forge, seal
from safetensors.torch import load_file, save_file

import private_distdd.release.folder as folder_module
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ReleaseError
from private_distdd.networks.register import FACTORIES, register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.networks.trained import TrainedNetwork
from private_distdd.release.build import build_sound_release
from private_distdd.release.card import render_card
from private_distdd.release.release import Release, verify_folder
from private_distdd.synthetic.dataset import SyntheticDataset

SPEC = ModelSpec("mlp", {"width": 3, "depth": 1})
TEACHER = "teacher.safetensors"
SENTENCE = "comes with the set, with the same ε: post-processing of the same messages"


def network(spec: ModelSpec = SPEC, info: DatasetInfo = INFO, seed: int = 1) -> TrainedNetwork:
    return TrainedNetwork(spec, spec.build(info.shape, info.num_classes, seed).state_dict(), info)


def release(soft: bool = True, teacher: TrainedNetwork | None = None) -> Release:
    built = Built()
    labels = torch.tensor([[0.9, 0.1], [0.25, 0.75]])
    return build_sound_release(
        SyntheticDataset(torch.zeros(2, 1, 4, 4), torch.tensor([0, 1]), INFO, soft_labels=labels if soft else None),
        built.run,
        {"ann": built.ledger()},
        method=built.method,
        settings=built.settings | {"privacy": asdict(PRIVACY)},
        seeds="none",
        progress=built.progress,
        messages={"ann": built.used},
        unaccounted={},
        teacher=teacher,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return release(teacher=network()).save(tmp_path / "run")


def test_they_come_back_to_the_bit_and_verify(folder: Path, tmp_path: Path) -> None:
    assert verify_folder(folder) == []
    loaded = Release.load(folder)
    loaded.verify()
    assert loaded.private
    assert loaded.teacher is not None
    assert (loaded.teacher.spec, loaded.teacher.info) == (SPEC, INFO)
    assert all(torch.equal(loaded.teacher.state[name], tensor) for name, tensor in network().state.items())
    assert torch.equal(loaded.dataset.require_soft_labels(), torch.tensor([[0.9, 0.1], [0.25, 0.75]]))
    examples = torch.randn((5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(loaded.teacher.build()(examples), network().build()(examples))
    assert files_of(loaded.save(tmp_path / "again")) == files_of(folder)


@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("with_teacher", [True, False])
def test_card_and_page_say_what_is_there(tmp_path: Path, soft: bool, with_teacher: bool) -> None:
    made = release(soft, network() if with_teacher else None)
    folder = made.save(tmp_path / "run")
    assert verify_folder(folder) == []
    page = (folder / "card.html").read_text(encoding="utf-8")
    assert made.card.get("soft_labels") == (True if soft else None)
    assert made.card.get("teacher") == (SPEC.to_json() if with_teacher else None)
    assert ("hard, and soft" in page) is soft
    assert (SENTENCE in page) is ("teacher" in page) is with_teacher
    assert (f"(teacher, <b>{SPEC.name}</b>)" in page) is with_teacher
    assert (folder / TEACHER).exists() is with_teacher


def test_a_release_with_neither_is_as_ever() -> None:
    """Card and page of before are what they were, and releases of before verify (test_round_trip)."""
    before = Built().release()
    assert json.dumps(before.card) == json.dumps(release(soft=False).card)
    assert render_card(before.card) == render_card(release(soft=False).card)
    assert {"teacher", "soft_labels"} & before.card.keys() == set()


def test_nothing_is_claimed_for_the_teacher_of_a_run_without_privacy(not_private: Release, tmp_path: Path) -> None:
    card = dict(not_private.card) | {"teacher": SPEC.to_json()}
    made = Release(not_private.dataset, card, not_private.ledgers, teacher=network())
    assert verify_folder(made.save(tmp_path / "run")) == []
    page = (tmp_path / "run" / "card.html").read_text(encoding="utf-8")
    assert "comes with the set, post-processing of the same messages" in page
    assert "the same ε" not in page


def test_names_on_the_page_are_escaped() -> None:
    card = dict(release(teacher=network()).card) | {"teacher": {"name": "<script>", "arguments": {}}}
    assert "<script>" not in render_card(card)
    assert "&lt;script&gt;" in render_card(card)


# Doctored releases


def test_every_changed_byte_of_the_teacher_is_noticed(folder: Path) -> None:
    data = (folder / TEACHER).read_bytes()
    for place in range(0, len(data), 5):
        (folder / TEACHER).write_bytes(data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :])
        assert verify_folder(folder) == [f"{TEACHER} was changed"]
    for changed in (data[:-1], data + b"x", b""):
        (folder / TEACHER).write_bytes(changed)
        assert verify_folder(folder) == [f"{TEACHER} was changed"]
    with pytest.raises(ReleaseError, match="was changed"):
        Release.load(folder)


def test_a_missing_teacher_is_noticed_resealed_or_not(folder: Path) -> None:
    (folder / TEACHER).unlink()
    assert verify_folder(folder) == [f"{TEACHER} is missing"]
    seal(folder)
    (found,) = verify_folder(folder)
    assert found.startswith("card: teacher is {")
    assert found.endswith(f"but {TEACHER} holds None")


def test_an_additional_teacher_is_noticed_resealed_or_not(tmp_path: Path) -> None:
    folder = release().save(tmp_path / "run")
    network().save(folder / TEACHER)
    assert verify_folder(folder) == [f"{TEACHER} was added"]
    seal(folder)
    (found,) = verify_folder(folder)
    assert found.startswith(f"card: teacher is None, but {TEACHER} holds")
    network().save(folder / "ledgers" / TEACHER)
    seal(folder)
    assert verify_folder(folder) == [f"ledgers/{TEACHER} is no part of a release"]


def other_teacher(folder: Path) -> None:
    network(ModelSpec("mlp", {"width": 4, "depth": 1})).save(folder / TEACHER)


def for_others(folder: Path) -> None:
    network(info=DatasetInfo(INFO.name, 2, INFO.shape, (0.4,))).save(folder / TEACHER)


def broken_weights(folder: Path) -> None:
    header = {"format": "private_distdd.network/1", "spec": SPEC.to_json(), "info": INFO.to_json()}
    state = load_file(folder / TEACHER)
    next(iter(state.values())).view(-1)[0] = float("nan")
    save_file(state, folder / TEACHER, {"json": json.dumps(header)})


def the_synthetic_set(folder: Path) -> None:
    (folder / TEACHER).write_bytes((folder / "synthetic.safetensors").read_bytes())


def the_teacher(folder: Path) -> None:
    (folder / "synthetic.safetensors").write_bytes((folder / TEACHER).read_bytes())


def hard_labels_only(folder: Path) -> None:
    release(soft=False).dataset.save(folder / "synthetic.safetensors")


def no_distribution(folder: Path) -> None:
    data = (folder / "synthetic.safetensors").read_bytes()
    state = load_file(folder / "synthetic.safetensors")
    state["soft_labels"][1, 0] = 0.5
    text = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    save_file(state, folder / "synthetic.safetensors", text)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (other_teacher, "card: teacher is"),
        (for_others, "teacher.safetensors: it is for DatasetInfo"),
        (broken_weights, "NaN or infinite weight"),
        (the_synthetic_set, "allowed: format 'private_distdd.network/1'"),
        (the_teacher, "synthetic.safetensors' with header {'format': 'private_distdd.network/1'"),
        (hard_labels_only, "card: soft_labels is True, but it must be False"),
        (no_distribution, "soft label of example 1 has least value 0.5 and sum 1.25"),
    ],
)
def test_resealed_files_that_do_not_fit_are_noticed(folder: Path, change: Callable[[Path], object], says: str) -> None:
    change(folder)
    seal(folder)
    (found,) = verify_folder(folder)
    assert says in found


def renamed(card: dict[str, Any]) -> None:
    card["teacher"]["name"] = "convnet"


def with_true_for_one(card: dict[str, Any]) -> None:
    card["teacher"]["arguments"]["depth"] = True


@pytest.mark.parametrize(
    ("edit", "says"),
    [
        (lambda card: card.pop("teacher"), "card: teacher is None"),
        (renamed, "card: teacher is {"),
        (with_true_for_one, "card: teacher is {"),
        (lambda card: card["teacher"].pop("arguments"), "card: teacher: arguments is missing"),
        (lambda card: card["teacher"].update(more=1), "card: teacher: 'more' is no field of it"),
        (lambda card: card.pop("soft_labels"), "card: soft_labels is False, but it must be True"),
        (lambda card: card.update(soft_labels=False), "card: soft_labels is False, but it must be True"),
        (lambda card: card.update(soft_labels=1), "card: soft_labels is 1, not a bool"),
    ],
)
def test_forged_cards_are_noticed(folder: Path, edit: Callable[[dict[str, Any]], object], says: str) -> None:
    found = forge(folder, edit)
    assert len(found) == 1
    assert says in found[0]


def test_in_memory_too() -> None:
    made = release(teacher=network())
    assert made.failures() == []
    assert Release(made.dataset, made.card, made.ledgers).failures()
    hard = SyntheticDataset(made.dataset.images, made.dataset.labels, INFO)
    assert Release(hard, made.card, made.ledgers, teacher=made.teacher).failures()
    plain = release(soft=False)
    assert Release(plain.dataset, plain.card, plain.ledgers, teacher=network()).failures()
    assert Release(made.dataset, plain.card, made.ledgers).failures()
    for teacher in ("mlp", None):
        odd = Release(made.dataset, dict(made.card) | {"teacher": teacher}, made.ledgers, teacher=made.teacher)
        assert odd.failures() == ["card: teacher is not an object"]
    worse = copy.deepcopy(dict(made.card))
    worse["clients"]["ann"]["claim"]["epsilon"] = 0.1
    assert Release(made.dataset, worse, made.ledgers, teacher=made.teacher).failures()


def test_a_teacher_of_any_length_is_not_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = (folder / TEACHER).stat().st_size
    monkeypatch.setitem(folder_module._LONGEST, TEACHER, size)
    assert verify_folder(folder) == []
    with open(folder / TEACHER, "ab") as file:
        file.truncate(size + 1)
    (found,) = verify_folder(folder)
    assert f"{TEACHER} is longer than {size} bytes" in found


def test_a_network_that_is_not_registered_here_is_said(tmp_path: Path) -> None:
    register_model("own")(FACTORIES["mlp"])
    try:
        folder = release(teacher=network(ModelSpec("own", {"width": 3}))).save(tmp_path / "run")
        assert verify_folder(folder) == []
    finally:
        del FACTORIES["own"]
    (found,) = verify_folder(folder)
    assert "model 'own'" in found
    assert "a registered name" in found  # what follows may be cut off: other tests have registered many
