"""What a newcomer gets wrong: each mistake is an error of our own tree, and it says what to do instead."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

from private_distdd import (
    Budget,
    Client,
    CollabDM,
    DatasetInfo,
    DistDD,
    ImageDataset,
    Ledger,
    Privacy,
    Release,
    SyntheticDataset,
    dirichlet_split,
    evaluate,
    load_dataset,
    mislabel,
    shard_split,
    sweep,
)
from private_distdd.cli import main
from private_distdd.errors import PrivateDistDDError, ReleaseError
from private_distdd.federation import aggregators

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
TRAIN = ImageDataset(torch.zeros(12, 1, 8, 8), torch.arange(12) % 3, INFO)
PAIR: Any = (TRAIN, TRAIN)
S = SyntheticDataset(torch.zeros(3, 1, 8, 8), torch.arange(3), INFO)
NOISY = Privacy(noise_multiplier=5.0)


class Net(nn.Module):
    """Somebody's own network."""


class Items(Dataset[Any]):
    """Somebody's own data set, of one pair many times."""

    def __init__(self, example: object, label: object) -> None:
        self._item = (example, label)

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> Any:
        return self._item


def small(**knobs: Any) -> DistDD:
    own = {"ipc": 1, "rounds": 1, "matching_steps": 1, "model": "mlp", "model_args": {"width": 4, "depth": 1}}
    return DistDD(**{**own, "privacy": NOISY, **knobs})


def clients() -> list[Client]:
    return [Client(name, TRAIN) for name in ("a", "b")]


def fit(given: Any, **arguments: Any) -> Release:
    return small().fit(given, **arguments)


def of(example: object, label: object) -> Release:
    return fit([Client("a", Items(example, label))], info=INFO)


IMAGE = torch.zeros(1, 8, 8)
SPLIT, BUILD = r"dirichlet_split\(train, num_clients\)", r"Client\(name, dataset\)"
MISTAKES: dict[str, tuple[Callable[[], object], str]] = {
    # fit
    "a data set for clients": (lambda: fit(TRAIN), SPLIT),
    "the pair of load_dataset for clients": (lambda: fit(PAIR), SPLIT),
    "one client for a list": (lambda: fit(clients()[0]), BUILD),
    "data sets for clients": (lambda: fit([TRAIN]), BUILD),
    "a loader for clients": (lambda: fit(DataLoader(TRAIN)), SPLIT),
    "a dictionary of clients": (lambda: fit({"a": clients()[0]}), "a list of Client objects"),
    "a generator of clients": (lambda: fit(client for client in clients()), "a list of Client objects"),
    "nothing for clients": (lambda: fit(None), SPLIT),
    "no clients": (lambda: fit([]), "at least one client"),
    "one client twice": (lambda: fit(clients()[:1] * 2), "each with a name of its own"),
    "info as a dictionary": (lambda: fit(clients(), info={"name": "tiny"}), r"Pass DatasetInfo\("),
    "no info": (lambda: fit([Client("a", Items(IMAGE, 0))]), r"info=DatasetInfo\("),
    "resume without a checkpoint": (lambda: fit(clients(), resume=True), "Give the run's folder"),
    "a checkpoint that is no path": (lambda: fit(clients(), checkpoint=3), "Name a file or a folder"),
    "an output that is no path": (lambda: fit(clients(), output=3), "Name a file or a folder"),
    "an output that exists": (lambda: fit(clients(), output="."), "Choose another name"),
    "a callback that is none": (lambda: fit(clients(), on_round_end="print"), "a function of one RoundRecord"),
    # methods
    "a network for its name": (lambda: small(model=Net()).fit(clients()), r'register_model\("mine"\)\(make\)'),
    "a class for its name": (lambda: small(model=Net).fit(clients()), r'register_model\("mine"\)\(make\)'),
    "another's network": (lambda: small(model="resnet18").fit(clients()), "Register it with register_model"),
    "an argument that the network lacks": (lambda: small(model_args={"widht": 3}).fit(clients()), "width: 'int'"),
    "epsilon for privacy": (lambda: small(privacy=8.0), r"Pass Privacy\("),
    "a dictionary for privacy": (lambda: small(privacy={"target_epsilon": 8}), r"Pass Privacy\("),
    "no images": (lambda: small(ipc=0), "10 is usual"),
    "half an image": (lambda: CollabDM(ipc=1.5), "a whole number"),  # type: ignore[arg-type]
    "rounds as text": (lambda: small(rounds="3"), "a whole number"),
    "no seed": (lambda: small(seed=None), "Any whole number from 0 on"),
    "an unknown rule": (lambda: small(aggregator="avg"), r"one of \[.*'mean'"),
    "a rule of one argument": (lambda: small(aggregator=lambda messages: messages.mean(0)), "lambda messages, counts"),
    "an unknown distance": (lambda: small(distance="l2"), "one of .*'cosine'"),
    "too few clients for a rule": (lambda: small(aggregator="krum(bad=2)").fit(clients()), "Ask more clients"),
    "an unknown device": (lambda: small(device="gpu").fit(clients()), "'cpu' or 'cuda'"),
    "a share above one": (lambda: small(participation=5), "0 < participation <= 1"),
    "a batch size with privacy": (lambda: small(batch_per_class=5), r"set Privacy\(sample_rate="),
    "real images with privacy": (lambda: small(initialization="real"), "allowed: 'noise'"),
    # privacy
    "neither target nor noise": (lambda: Privacy(), "Give target_epsilon"),
    "both target and noise": (lambda: Privacy(8.0, 1.0), "exactly one of the two"),
    "a negative target": (lambda: Privacy(-1.0), "1 to 10 is usual"),
    "a target as text": (lambda: Privacy("8"), "a finite number > 0"),  # type: ignore[arg-type]
    "a rate of zero": (lambda: Privacy(8.0, sample_rate=0.0), "1 means every example"),
    "a delta of one half": (lambda: Privacy(8.0, delta=0.5), "1e-5 is usual"),
    "a target out of reach": (lambda: Privacy(1e-9).plan(1000), "Raise target_epsilon"),
    "a budget of one number": (lambda: Ledger(None, 8.0), r"Pass Budget\(epsilon, delta\)"),  # type: ignore[arg-type]
    "a negative budget": (lambda: Budget(-1, 1e-5), "For no limit, give no budget"),
    "a ledger that is a folder": (lambda: Ledger("."), "a readable and writable file"),
    # clients and their data
    "a path for a ledger": (lambda: Client("a", TRAIN, "a.jsonl"), r"Ledger\(path\)"),  # type: ignore[arg-type]
    "a name with a blank": (lambda: Client("ward 3", TRAIN), "A-Z a-z 0-9 _ -"),
    "name and data exchanged": (lambda: Client(TRAIN, "a"), "A-Z a-z 0-9 _ -"),  # type: ignore[arg-type]
    "a loader for data": (lambda: Client("a", DataLoader(TRAIN)), "loader.dataset"),  # type: ignore[arg-type]
    "a path for data": (lambda: Client("a", "data/"), "Yield pairs"),  # type: ignore[arg-type]
    "one-hot labels": (lambda: of(IMAGE, torch.eye(3)[1]), r"label.argmax\(\)"),
    "labels as text": (lambda: of(IMAGE, "cat"), "Number the classes from 0"),
    "labels from 1": (lambda: of(IMAGE, 3), r"integers 0 \.\.\. 2"),
    "images of whole numbers": (lambda: of(IMAGE.to(torch.uint8), 0), r"ToTensor\(\)"),
    "images of numpy": (lambda: of(np.zeros((1, 8, 8)), 0), r"ToTensor\(\)"),
    "images of pillow": (lambda: of(Image.new("L", (8, 8)), 0), r"ToTensor\(\)"),
    "channels last": (lambda: of(torch.zeros(8, 8, 1), 0), r"allowed: \(1, 8, 8\)"),
    "a pixel that is no number": (lambda: of(IMAGE * math.nan, 0), "Repair or drop it"),
    "an unknown data set": (lambda: load_dataset("minst"), "'mnist'"),
    "a data set for its name": (lambda: load_dataset(TRAIN), "Name a file"),  # type: ignore[arg-type]
    "no folder of files": (lambda: load_dataset("mnist"), 'root="FOLDER"'),
    "the wrong folder of files": (lambda: load_dataset("mnist", root="nowhere"), "pass download=True"),
    "no such file": (lambda: load_dataset("x.npz"), "Check the path"),
    "a pair to split": (lambda: dirichlet_split(PAIR, 2, 1.0), r"pair \(train, test\) take one"),
    "a set without constants to split": (lambda: dirichlet_split(Items(IMAGE, 0), 2, 1.0), r"from_torch\("),
    "no clients to split over": (lambda: dirichlet_split(TRAIN, 0, 1.0), "Ask for at least one client"),
    "skew as text": (lambda: dirichlet_split(TRAIN, 2, "iid"), "inf is IID"),  # type: ignore[arg-type]
    "too many clients": (lambda: dirichlet_split(TRAIN, 400, 1.0), "Use fewer clients"),
    "too many shards": (lambda: shard_split(TRAIN, 2, 1000), "Use fewer"),
    "mislabelled data": (lambda: mislabel(TRAIN, 0.5), "dirichlet_split"),  # type: ignore[arg-type]
    "five mislabelled clients": (lambda: mislabel(clients(), 5), "a share of the clients"),
    # results
    "a release to evaluate": (lambda: evaluate(Release(S, {}, {}), TRAIN), "release.dataset"),  # type: ignore[arg-type]
    "a path to evaluate": (lambda: evaluate("run", TRAIN), "release.dataset"),  # type: ignore[arg-type]
    "a pair to test on": (lambda: evaluate(S, PAIR), r"pair \(train, test\) the second"),
    "a number of seeds": (lambda: evaluate(S, TRAIN, seeds=3), r"seeds=range\(3\)"),  # type: ignore[arg-type]
    "no epochs": (lambda: evaluate(S, TRAIN, epochs=0), "The protocol's are 300"),
    "a network to evaluate with": (lambda: evaluate(S, TRAIN, model=Net()), "register_model"),  # type: ignore[arg-type]
    "unknown labels": (lambda: evaluate(S, TRAIN, labels="smooth"), "one of .*'soft'"),
    "no such release": (lambda: Release.load("nowhere"), "a release folder"),
    "owners that are a path": (lambda: Release(S, {}, {}).verify(owners="k.json"), "json.load"),  # type: ignore[arg-type]
    "messages as a list": (lambda: aggregators.mean([1.0, 2.0]), r"torch.stack"),  # type: ignore[arg-type]
    "no such sweep": (lambda: sweep("nowhere.toml"), "docs/sweeps.md shows one"),
    "a sweep without data": (lambda: sweep({"method": {"name": "distdd"}}), "Needed are"),
}


@pytest.mark.parametrize(("mistake", "remedy"), MISTAKES.values(), ids=list(MISTAKES))
def test_a_mistake_is_our_own_error_and_names_the_remedy(
    mistake: Callable[[], object], remedy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(PrivateDistDDError, match=remedy):
        mistake()
    assert os.listdir(tmp_path) == []  # nothing is written before it


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ("distill --epsilon 8 --output run", "did you mean --target-epsilon or --budget-epsilon?"),
        ("distill --clients 5 --output run", "did you mean --num-clients?"),
        ("plan --epsilon=3", "did you mean --target-epsilon?"),
        ("evaluate run --data-set mnist", "did you mean --dataset?"),
        ("plan --nonsense", "unrecognized arguments: --nonsense\n"),
        ("distill --dataset mnist --output run", "--root FOLDER"),
        ("distil", "choose from"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_remedy(
    arguments: str, hint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    try:
        code = main(arguments.split())
    except SystemExit as stop:  # argparse's own
        code = int(str(stop.code))
    assert code == 2
    assert hint in capsys.readouterr().err
    assert os.listdir(tmp_path) == []


def test_a_release_that_cannot_be_saved_comes_with_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*arguments: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Release, "_write", full)
    with pytest.raises(ReleaseError, match="No space left") as caught:
        fit(clients(), output=tmp_path / "run")
    assert caught.value.release is not None
    caught.value.release.verify()
