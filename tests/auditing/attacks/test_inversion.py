"""Inversion: figures against closed forms, an attack that works where nothing protects, and none that peeks."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from private_distdd.auditing.attacks.inversion import gradient_inversion
from private_distdd.auditing.attacks.optimisers import Attack, CosineAttack, LBFGSAttack, Objective
from private_distdd.auditing.attacks.similarity import BEST_PSNR, psnr, ssim
from private_distdd.auditing.report.page import render_inversions
from private_distdd.auditing.report.records import table
from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.data.load import load_dataset
from private_distdd.errors import ConfigurationError, DataError, ModelError
from private_distdd.networks.spec import ModelSpec

SMOOTH = ModelSpec("convnet", {"width": 8, "norm": "none", "activation": "tanh"})
ATTACK = LBFGSAttack(60)


@pytest.fixture(scope="module")
def public() -> ImageDataset:
    return load_dataset("digits")[1]


@pytest.fixture(scope="module")
def clients(digits: ImageDataset) -> list[ImageDataset]:
    return [ImageDataset(digits.images[i : i + 1], digits.labels[i : i + 1], digits.info) for i in (11, 23)]


def random_images(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed))


# Figures


def test_psnr_of_a_shift_is_that_of_its_square() -> None:
    images = 0.5 * random_images(3, 2, 9, 7)
    shifts = torch.tensor([0.1, 0.01, 0.5]).view(-1, 1, 1, 1)
    assert psnr(images + shifts, images).numpy() == pytest.approx([20, 40, 20 * math.log10(2)], rel=1e-4)
    assert psnr(images, images).tolist() == [BEST_PSNR] * 3


def naive_ssim(image: np.ndarray, reference: np.ndarray, width: int) -> float:
    """One grey image, window by window, as Wang et al. write it."""
    ticks = np.arange(width) - width // 2
    window = np.exp(-(ticks[:, None] ** 2 + ticks[None] ** 2) / 4.5)
    window /= window.sum()
    values = []
    for row in range(image.shape[0] - width + 1):
        for column in range(image.shape[1] - width + 1):
            x, y = (a[row : row + width, column : column + width] for a in (image, reference))
            mx, my = (window * x).sum(), (window * y).sum()
            vx, vy, cov = (
                (window * (x - mx) ** 2).sum(),
                (window * (y - my) ** 2).sum(),
                (window * (x - mx) * (y - my)).sum(),
            )
            values.append((2 * mx * my + 1e-4) * (2 * cov + 9e-4) / ((mx**2 + my**2 + 1e-4) * (vx + vy + 9e-4)))
    return float(np.mean(values))


@pytest.mark.parametrize(("side", "width"), [((14, 13), 11), ((8, 9), 7), ((5, 12), 5)])
def test_ssim_is_that_of_the_loop(side: tuple[int, int], width: int) -> None:
    first, second = random_images(2, 3, *side), random_images(2, 3, *side, seed=1)
    found = ssim(first, second)
    for k in range(2):
        channels = [naive_ssim(first[k, c].double().numpy(), second[k, c].double().numpy(), width) for c in range(3)]
        assert float(found[k]) == pytest.approx(np.mean(channels), abs=1e-9)


def test_ssim_closed_forms() -> None:
    images = random_images(2, 1, 12, 12)
    assert ssim(images, images).numpy() == pytest.approx([1, 1], abs=1e-12)
    dark, bright = torch.full((1, 1, 12, 12), 0.2), torch.full((1, 1, 12, 12), 0.6)
    assert float(ssim(dark, bright)) == pytest.approx((2 * 0.12 + 1e-4) / (0.04 + 0.36 + 1e-4), rel=1e-5)
    assert float(ssim(images[:1], 1 - images[:1])) < 0


@pytest.mark.parametrize("figure", [psnr, ssim])
def test_figures_compare_like_with_like(figure: object) -> None:
    for pair in ((torch.zeros(1, 1, 8, 8), torch.zeros(1, 1, 8, 9)), (torch.zeros(8, 8), torch.zeros(8, 8))):
        with pytest.raises(DataError, match=r"two tensors \[n, C, H, W\] of one shape"):
            figure(*pair)  # type: ignore[operator]


# Attacks


@pytest.mark.parametrize(("noise_multiplier", "max_grad_norm"), [(None, 1.0), (0.0, 0.5), (0.0, 1e-20)])
def test_without_noise_images_come_back(
    clients: list[ImageDataset], public: ImageDataset, noise_multiplier: float | None, max_grad_norm: float
) -> None:
    found = gradient_inversion(clients, public, SMOOTH, noise_multiplier, ATTACK, max_grad_norm=max_grad_norm)
    figures = found.record.figures
    assert figures["PSNR"] > 40
    assert figures["gain"] > 20
    assert figures["SSIM"] > 0.99
    assert figures["label accuracy"] == 1
    assert figures["epsilon"] == math.inf
    for held, original in zip(clients, found.originals, strict=True):
        assert torch.allclose(held.info.denormalise(held.images[0]), original, atol=1e-6)
    assert found.labels.tolist() == [int(held.labels[0]) for held in clients]


def test_noise_leaves_less_than_the_public_guess(clients: list[ImageDataset], public: ImageDataset) -> None:
    figures = gradient_inversion(clients, public, SMOOTH, 1.0, ATTACK).record.figures
    assert figures["gain"] < 0
    assert figures["epsilon"] == pytest.approx(4.377, abs=1e-3)  # mu = 1, Balle and Wang


def test_cosine_attack_inverts_a_network_of_instance_norm(clients: list[ImageDataset], public: ImageDataset) -> None:
    spec = ModelSpec("convnet", {"width": 32})
    found = gradient_inversion(clients, public, spec, None, CosineAttack(200, total_variation=1e-3))
    assert found.record.figures["gain"] > 1
    assert 0 <= float(found.rebuilt.min()) <= float(found.rebuilt.max()) <= 1


def test_several_examples_of_a_class_give_their_mean(digits: ImageDataset, public: ImageDataset) -> None:
    alike = torch.nonzero(digits.labels == 3)[:2, 0]
    other = torch.nonzero(digits.labels == 5)[:1, 0]
    held = torch.cat([alike, other])
    client = ImageDataset(digits.images[held], digits.labels[held], digits.info)
    found = gradient_inversion([client], public, SMOOTH, None, ATTACK)
    assert found.labels.tolist() == [3, 5]
    mean = digits.info.denormalise(digits.images[alike].mean(dim=0))
    assert torch.allclose(found.originals[0], mean, atol=1e-6)
    assert torch.allclose(found.guesses[1], digits.info.denormalise(public.images[public.labels == 5].mean(dim=0)))
    assert float(psnr(found.rebuilt, found.originals)[1]) > 40  # alone in its class, whatever the others are
    assert found.record.figures["label accuracy"] == 1


@pytest.mark.parametrize("noise_multiplier", [None, 0.0])
def test_as_many_images_as_are_held_give_their_mean(
    digits: ImageDataset, public: ImageDataset, noise_multiplier: float | None
) -> None:
    alike = torch.nonzero(digits.labels == 3)[:2, 0]
    client = ImageDataset(digits.images[alike], digits.labels[alike], digits.info)
    spec = ModelSpec("convnet", {"width": 16, "norm": "group", "activation": "tanh"})
    attack = LBFGSAttack(300)
    found = gradient_inversion(
        [client], public, spec, noise_multiplier, attack, max_grad_norm=0.1, restarts=3, images=2
    )
    assert found.record.figures["PSNR"] > 30
    assert found.record.figures["gain"] > 10


@dataclass
class Scripted:
    """Returns what it is told."""

    images: list[Tensor]
    losses: list[Tensor]
    name = "scripted"

    def search(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        assert starts.shape == self.images[0].shape
        return self.images.pop(0), self.losses.pop(0)


def test_restarts_are_chosen_by_the_attacks_own_loss(clients: list[ImageDataset], public: ImageDataset) -> None:
    truth = torch.stack([held.images for held in clients]).double()
    wrong = -truth
    script = Scripted(
        [wrong.clone(), truth.clone(), torch.full_like(truth, math.nan)],
        [torch.tensor([0.1, 0.3]), torch.tensor([0.2, 0.2]), torch.tensor([math.nan, math.nan])],
    )
    found = gradient_inversion(clients, public, SMOOTH, None, script, restarts=3)
    assert not script.images
    reached = psnr(found.rebuilt, found.originals)
    assert float(reached[0]) < 20  # the truth had the higher loss, and was left
    assert float(reached[1]) > 100


def test_a_search_that_fails_altogether_is_still_a_figure(clients: list[ImageDataset], public: ImageDataset) -> None:
    nan = torch.full((2, 1, 1, 8, 8), math.nan, dtype=torch.float64)
    found = gradient_inversion(clients, public, SMOOTH, None, Scripted([nan], [torch.tensor([math.nan] * 2)]))
    assert all(math.isfinite(value) for name, value in found.record.figures.items() if name != "epsilon")


def test_the_seed_decides_everything_public(clients: list[ImageDataset], public: ImageDataset) -> None:
    few = LBFGSAttack(3)
    first, same, other = (gradient_inversion(clients, public, SMOOTH, 1.0, few, seed=s).rebuilt for s in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_record_describes_and_rejects_nothing(clients: list[ImageDataset], public: ImageDataset) -> None:
    record = gradient_inversion(clients[:1], public, SMOOTH, None, LBFGSAttack(2)).record
    assert record.kind == "descriptive"
    assert not record.rejected
    assert record.figures["PSNR spread"] == 0  # of one target
    assert "not rejected" not in table([record])
    written = json.dumps(record.to_json(), allow_nan=False)
    assert json.loads(written)["figures"]["epsilon"] == "infinity"


def test_page_is_escaped_and_self_contained(clients: list[ImageDataset], public: ImageDataset) -> None:
    found = [gradient_inversion(clients, public, SMOOTH, sigma, LBFGSAttack(20)) for sigma in (None, 0.1)]
    page = render_inversions("<b>", {"<i>": found})
    assert "<b>" not in page.split("</title>")[0].split("<title>")[1]
    assert "&lt;i&gt;" in page
    assert "<i>" not in page
    assert page.count("data:image/png;base64,") == 2 * 4
    assert "http" not in page
    assert "Clipping alone protects nothing" in page
    assert "sigma = 0.1 already stops this one, yet costs epsilon = 92" in page


def test_colour_images_are_drawn_too() -> None:
    info = DatasetInfo("colour", 2, (3, 8, 8))
    data = ImageDataset(info.normalise(random_images(6, 3, 8, 8)), torch.arange(6) % 2, info)
    held, public = (ImageDataset(data.images[part], data.labels[part], info) for part in (slice(1), slice(1, 6)))
    found = gradient_inversion([held], public, SMOOTH, None, LBFGSAttack(2))
    assert "data:image/png" in render_inversions("colour", {"one": [found]})


# What is refused


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"noise_multiplier": -1.0}, "noise_multiplier = -1.0; allowed: 0 < noise_multiplier"),
        ({"noise_multiplier": math.nan}, "noise_multiplier = nan"),
        ({"noise_multiplier": False}, "noise_multiplier = False"),
        ({"noise_multiplier": "1"}, "noise_multiplier = '1'"),
        ({"max_grad_norm": 0.0, "noise_multiplier": 0.0}, r"max_grad_norm = 0.0; allowed: 1e-30 ... 1e30"),
        ({"restarts": 0}, "restarts = 0; allowed: a whole number of at least 1"),
        ({"images": 0}, "images = 0; allowed: a whole number of at least 1"),
        ({"seed": -1}, "seed = -1; allowed: a whole number of at least 0"),
    ],
)
def test_bad_arguments_are_refused(
    clients: list[ImageDataset], public: ImageDataset, change: dict[str, object], says: str
) -> None:
    arguments = {"noise_multiplier": None, "attack": ATTACK, **change}
    with pytest.raises(ConfigurationError, match=says):
        gradient_inversion(clients, public, SMOOTH, **arguments)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: LBFGSAttack(0), "steps = 0"),
        (lambda: CosineAttack(True), "steps = True"),
        (lambda: CosineAttack(total_variation=-0.1), "total_variation = -0.1; allowed: a number >= 0"),
        (lambda: CosineAttack(total_variation=math.nan), "total_variation = nan"),
    ],
)
def test_bad_attacks_are_refused(make: object, says: str) -> None:
    with pytest.raises(ConfigurationError, match=says):
        make()  # type: ignore[operator]
    assert isinstance(CosineAttack(total_variation=0).name, str)


def test_bad_data_is_refused(clients: list[ImageDataset], public: ImageDataset, digits: ImageDataset) -> None:
    attack: Attack = ATTACK
    empty = ImageDataset(digits.images[:0], digits.labels[:0], digits.info)
    for none in ([], [clients[0], empty]):
        with pytest.raises(DataError, match="clients with an example each"):
            gradient_inversion(none, public, SMOOTH, None, attack)
    label = int(clients[0].labels[0])
    lacking = ImageDataset(public.images[public.labels != label], public.labels[public.labels != label], public.info)
    with pytest.raises(DataError, match=rf"no public examples of classes \[{label}\]"):
        gradient_inversion(clients[:1], lacking, SMOOTH, None, attack)
    other = DatasetInfo("other", 10, (1, 8, 8))
    with pytest.raises(DataError, match="Take both from one data set"):
        gradient_inversion(clients, ImageDataset(public.images, public.labels, other), SMOOTH, None, attack)
    with pytest.raises(ModelError, match="at least 12 x 12"):
        gradient_inversion(clients, public, ModelSpec("lenet"), None, attack)


@dataclass(frozen=True)
class Broken:
    """Leaves the starts as they are, but for the first target: that search ends in NaN."""

    name: str = "broken"

    def search(self, objective: Objective, starts: Tensor) -> tuple[Tensor, Tensor]:
        found = starts.clone()
        found[0, :, 0, 0, 0] = math.nan
        return found, torch.zeros(len(starts), dtype=starts.dtype)


def test_searches_that_fail_are_counted(clients: list[ImageDataset], public: ImageDataset) -> None:
    found = gradient_inversion(clients, public, SMOOTH, None, Broken(), restarts=2)
    assert found.record.figures["failed searches"] == 0.5
    assert bool(found.rebuilt.isfinite().all())
    assert gradient_inversion(clients, public, SMOOTH, None, LBFGSAttack(2)).record.figures["failed searches"] == 0
