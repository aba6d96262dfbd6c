"""S as what a generator makes of latents: in every method that makes an S, on its card, and beside its pixels."""

from __future__ import annotations

import functools
import math
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conformance import COLLABDM, DISTDD, FEDDGM, NOISY, checked, fit, members, raising
from interrupts import interrupted
from torch import Tensor, nn

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, NotPrivateWarning
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.feddgm import FedDGM
from private_distdd.methods.parametrisation import recorded
from private_distdd.networks.generators import Generator
from private_distdd.privacy.ledger import Ledger
from private_distdd.privacy.plan import Privacy
from private_distdd.server.record import RoundRecord
from private_distdd.simulation.splits import dirichlet_split
from private_distdd.site.client import Client

MakeImages = Callable[..., ImageDataset]
METHODS = {"DistDD": DISTDD, "CollabDM": COLLABDM, "FedDGM": FEDDGM}
every_method = pytest.mark.parametrize("make", METHODS.values(), ids=METHODS)


class Stripes(nn.Module):
    """Five latents to 8 x 8 images whose rows are alike: no pixels that are steered one by one look so."""

    def __init__(self) -> None:
        super().__init__()
        self.mix, self.rows = nn.Linear(5, 8), nn.Sigmoid()

    def forward(self, latents: Tensor) -> Tensor:
        return self.rows(self.mix(latents))[:, None, None, :].expand(-1, 1, 8, 8)


def stripes(**knobs: Any) -> Generator:
    return Generator(Stripes(), (5,), "stripes", "flags", **knobs)


@every_method
@pytest.mark.parametrize("knobs", [{}, {"learned": True}, {"layer": "mix"}], ids=["fixed", "learned", "layer"])
def test_s_is_what_the_generator_makes_and_the_card_says_so(
    make_images: MakeImages, tmp_path: Path, make: Callable[..., Any], knobs: dict[str, Any]
) -> None:
    generator = stripes(**knobs)
    before = generator.weights
    release = checked(fit(make(privacy=NOISY, parametrisation=generator), members(make_images)), tmp_path)
    images = release.dataset.images
    assert torch.allclose(images, images[:, :, :1].expand_as(images))
    assert generator.weights == before
    said = release.card["method"]["settings"]["parametrisation"]
    expected = {"name": "stripes", "seen": "flags", "weights": before, "latent_shape": [5], "learned": False}
    assert said == expected | knobs
    (page,) = tmp_path.rglob("card.html")
    assert "its weights have seen: flags" in page.read_text()
    assert ("changed at its layer mix" in page.read_text()) is ("layer" in knobs)


@every_method
def test_latents_move_towards_the_messages_from_public_noise(digits: ImageDataset, make: Callable[..., Any]) -> None:
    """At a rate of nothing S is the same whatever the data; at a usual one it is not."""
    halves = [ImageDataset(digits.images[k::2], digits.labels[k::2], digits.info) for k in range(2)]

    def images(data: ImageDataset, rate: float) -> Tensor:
        method = make(parametrisation="convolutional", matching_rate=rate, generator_rate=rate / 10)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotPrivateWarning)
            return method.fit(dirichlet_split(data, 2)).dataset.images

    still = [images(data, 1e-12) for data in halves]
    assert torch.allclose(*still, atol=1e-6)
    moved = [images(data, 0.1) for data in halves]
    assert float((moved[0] - still[0]).abs().max()) > 0.05
    assert not torch.allclose(*moved, atol=1e-3)


@pytest.mark.parametrize("make", [COLLABDM, FEDDGM], ids=["CollabDM", "FedDGM"])
def test_the_same_messages_are_matched_in_another_parametrisation(
    make_images: MakeImages, tmp_path: Path, make: Callable[..., Any]
) -> None:
    clients = [Client(n, make_images(9, i), Ledger(tmp_path / f"{n}.jsonl")) for i, n in enumerate("ab")]
    run, found = tmp_path / "run", []
    for k, kind in enumerate(("pixels", "convolutional", stripes(), "pixels")):
        found.append(fit(make(privacy=NOISY, parametrisation=kind), clients, checkpoint=run, resume=k > 0))
    assert torch.equal(found[0].dataset.images, found[3].dataset.images)
    assert len({float(release.dataset.images.sum()) for release in found}) == 3
    assert all(release.epsilon == found[0].epsilon for release in found)
    assert [len(client.ledger.events) for client in clients] == [make(privacy=NOISY).rounds] * 2
    for client in clients:
        client.ledger.close()


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_a_layer_that_leaves_the_latents_no_part_in_s_is_resumed(
    make_images: MakeImages, tmp_path: Path, optimizer: str
) -> None:
    """Latents, and learned weights before the layer, have no slope then; the checkpoint holds their moments."""
    run, learned = tmp_path / "run", stripes(learned=True, layer="mix")
    clients = [Client(n, make_images(9, i), Ledger(tmp_path / f"{n}.jsonl")) for i, n in enumerate("ab")]

    def stop(record: RoundRecord) -> None:
        raise KeyboardInterrupt

    method = DISTDD(privacy=NOISY, parametrisation=learned, matching_optimizer=optimizer)
    interrupted(fit, method, clients, checkpoint=run, on_round_end=stop)
    fit(method, clients, checkpoint=run, resume=True)
    assert [len(client.ledger.events) for client in clients] == [method.rounds] * 2
    for client in clients:
        client.ledger.close()


@pytest.mark.parametrize(
    ("make", "knobs"),
    [
        (DISTDD, {"rounds": 2, "matching_steps": 3}),
        (DISTDD, {"rounds": 2, "matching_steps": 3, "matching_schedule": "constant"}),
        (COLLABDM, {"matching_steps": 6}),
        (FEDDGM, {"matching_steps": 6}),
    ],
    ids=["DistDD", "DistDD, constant", "CollabDM", "FedDGM"],
)
def test_rates_of_latents_and_of_weights_fall_together(
    make_images: MakeImages, monkeypatch: pytest.MonkeyPatch, make: Callable[..., Any], knobs: dict[str, Any]
) -> None:
    rates: list[list[float]] = []
    step = torch.optim.Adam.step

    def noted(self: torch.optim.Adam) -> None:
        rates.append([group["lr"] for group in self.param_groups])
        step(self)

    monkeypatch.setattr(torch.optim.Adam, "step", noted)
    method = make(parametrisation=stripes(learned=True), matching_rate=0.4, generator_rate=0.02, privacy=NOISY, **knobs)
    fit(method, members(make_images))
    constant = knobs.get("matching_schedule") == "constant"
    shares = [1.0 if constant else (1 + math.cos(math.pi * k / 6)) / 2 for k in range(6)]
    assert [own[0] for own in rates] == pytest.approx([0.4 * share for share in shares])
    for learned in (1, 2):  # a linear layer's weights and biases
        assert [own[learned] for own in rates] == pytest.approx([0.02 * share for share in shares])


@pytest.mark.parametrize(
    ("make", "again", "rounds"),
    [
        (FEDDGM, {"surrogates": "trained"}, {"rounds": 1}),
        (COLLABDM, {"networks": 2, "refinement_rounds": 1}, {"refinement_rounds": 0}),
    ],
    ids=["FedDGM", "CollabDM"],
)
def test_ctrl_c_in_a_matching_that_began_anew_gives_the_s_that_was_done(
    make_images: MakeImages,
    monkeypatch: pytest.MonkeyPatch,
    make: Callable[..., Any],
    again: dict[str, Any],
    rounds: dict[str, Any],
) -> None:
    method = make(parametrisation="convolutional", matching_steps=5, **again)
    clients = functools.partial(members, make_images, allow_without_privacy=True)
    done = fit(replace(method, **rounds), clients()).dataset.images
    assert not torch.allclose(fit(method, clients()).dataset.images, done, atol=1e-3)
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.Adam, "step", raising(KeyboardInterrupt, torch.optim.Adam.step, 7))
        release = interrupted(fit, method, clients())
    assert torch.allclose(release.dataset.images, done, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "knobs", "text"),
    [
        (DISTDD, {"parametrisation": "gan"}, "parametrisation = 'gan'"),
        (DISTDD, {"parametrisation": False}, "parametrisation = False"),
        (COLLABDM, {"generator_rate": 0.0}, "generator_rate = 0.0"),
        (DISTDD, {"parametrisation": "convolutional", "initialization": "real", "privacy": None}, "'real' with param"),
        (COLLABDM, {"parametrisation": "convolutional", "local_steps": 2, "privacy": None}, "local_steps = 2 with p"),
    ],
)  # fmt: skip
def test_contradictions_are_refused(make: Callable[..., Any], knobs: dict[str, Any], text: str) -> None:
    with pytest.raises(ConfigurationError, match=text):
        make(**knobs)


@pytest.mark.parametrize(
    ("make", "shape", "privacy", "usual"),
    [
        (DistDD, (1, 24, 24), NOISY, "convolutional"),
        (DistDD, (3, 224, 32), NOISY, "convolutional"),
        (DistDD, (1, 28, 23), NOISY, "pixels"),
        (DistDD, (1, 8, 8), NOISY, "pixels"),
        (DistDD, (1, 28, 28), None, "pixels"),
        (DistDD, (30,), NOISY, "values"),
        (CollabDM, (1, 28, 28), NOISY, "pixels"),
        (FedDGM, (1, 8, 8), NOISY, "convolutional"),
        (FedDGM, (1, 28, 28), None, "convolutional"),
        (FedDGM, (30,), NOISY, "values"),
    ],
)
def test_what_s_is_a_function_of_by_default(
    make: Callable[..., Any], shape: tuple[int, ...], privacy: Privacy | None, usual: str
) -> None:
    info = DatasetInfo("x", 2, shape, (0.0,), (1.0,))
    said = recorded(make(privacy=privacy).generator(info), info)
    assert (said["name"] if isinstance(said, dict) else said) == usual


@every_method
def test_a_generator_of_other_images_is_refused_before_anybody_pays(
    make_images: MakeImages, make: Callable[..., Any]
) -> None:
    other = Generator(nn.Sequential(nn.Linear(5, 81), nn.Unflatten(1, (1, 9, 9))), (5,), "large", "nothing")
    clients = members(make_images)
    with pytest.raises(ModelError, match="large"):
        fit(make(privacy=NOISY, parametrisation=other), clients)
    assert all(not client.ledger.events for client in clients)
