"""Whatever computes on a device computes what the CPU does.  The CUDA half is skipped where there is no GPU."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import pytest
import torch

from private_distdd.data.dataset import ImageDataset
from private_distdd.data.info import DatasetInfo
from private_distdd.errors import NotPrivateWarning
from private_distdd.evaluation import evaluate
from private_distdd.methods.collabdm import CollabDM
from private_distdd.methods.distdd import DistDD
from private_distdd.methods.feddgm import FedDGM
from private_distdd.networks.spec import ModelSpec
from private_distdd.privacy.mechanism import LATTICE, clip_to_lattice, lattice_sums
from private_distdd.privacy.plan import Privacy, PrivacyPlan
from private_distdd.questions.register import private_question
from private_distdd.site.client import Client
from private_distdd.wire.query import Query
from private_distdd.wire.run import Run

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
CONVNET = ModelSpec("convnet", {"width": 16})
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")),
]


def images(n: int, seed: int = 0) -> ImageDataset:
    generator = torch.Generator().manual_seed(seed)
    return ImageDataset(torch.randn((n, *INFO.shape), generator=generator), torch.arange(n) % 3, INFO)


@pytest.mark.parametrize("device", DEVICES)
def test_the_lattice(device: str) -> None:
    rows = torch.randn((64, 40_000), generator=torch.Generator().manual_seed(0)) * 10
    rows[3, 5], rows[4, 6] = float("nan"), float("inf")
    points = clip_to_lattice(rows.to(device), 1.0)
    assert points.device.type == device
    assert not points[3:5].any()
    assert max(sum(k * k for k in row) for row in points.tolist()) <= LATTICE**2
    # The norm's last bit may differ, and with it where a value is truncated.
    assert int((points.cpu() - clip_to_lattice(rows, 1.0)).abs().max()) <= 1
    groups = torch.arange(50) % 4
    sums = lattice_sums([(rows.to(device), groups), (rows.to(device), groups)], 4, 40_000, 1.0)
    expected = torch.zeros(4, 40_000, dtype=torch.int64).index_add_(0, groups, 2 * points[:50].cpu())
    assert torch.equal(sums.cpu(), expected)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("granularity", ["class", "joint"])
def test_a_client_s_message(device: str, granularity: str) -> None:
    run = Run("run-1", INFO, PrivacyPlan(2.0**-20, 1.0, 1.0, 1.0, 2, delta=1e-5))
    arguments = {"model": CONVNET.to_json(), "granularity": granularity}
    state = dict(CONVNET.build(INFO.shape, 3, seed=0).state_dict())
    query, found = Query(run.run_id, 0, "class_gradients", arguments, state, run.plan), []
    for place in ("cpu", device):
        client = Client("clinic", images(70), device=place)
        client.enroll(run)
        found.append(client.answer(query).values)
        assert found[-1].is_cpu
    assert float(found[0].norm()) > 1
    assert torch.allclose(found[0], found[1], rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_places_are_alike(device: str) -> None:
    """A2 on this device: the check that every client makes before its first answer passes."""
    arguments = {"model": CONVNET.to_json(), "granularity": "class"}
    state = dict(CONVNET.build(INFO.shape, 3, seed=0).state_dict())
    assert private_question("class_gradients", arguments, state, INFO, device).num_groups == 3


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("private", [True, False])
def test_whole_runs(device: str, private: bool) -> None:
    privacy = Privacy(noise_multiplier=1.0) if private else None
    common: dict[str, Any] = {"model": "convnet", "model_args": {"width": 16}, "privacy": privacy, "device": device}
    one = {"embedding_rounds": 1, "teacher_rounds": 0, "refinement_rounds": 0}
    all_kinds = {"embedding_rounds": 2, "teacher_rounds": 1, "teacher": "scatter_linear", "refinement_rounds": 2}
    methods = (
        DistDD(1, 2, matching_steps=2, **common),
        *(
            FedDGM(1, 2, starts=2, surrogate_steps=2, matching_steps=2, segment=1, surrogates=surrogates, **common)
            for surrogates in ("fresh", "continued", "trained")
        ),
        *(CollabDM(1, matching_steps=2, networks=2, **kinds, **common) for kinds in (one, all_kinds)),
    )
    for method in methods:
        clients = [Client(f"c{i}", images(9, i), device=device) for i in range(2)]
        with nullcontext() if private else pytest.warns(NotPrivateWarning):
            release = method.fit(clients)
        release.verify()
        assert release.dataset.images.shape == (3, 1, 8, 8)
        assert release.private is private
        scores = evaluate(release.dataset, images(9, 5), epochs=1, seeds=[0], device=device)
        assert 0 <= scores.mean <= 100
