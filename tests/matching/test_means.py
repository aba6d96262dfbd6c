"""Class means of embeddings, and the server's steps towards them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from private_distdd.data.info import DatasetInfo
from private_distdd.matching.means import class_means, match_means
from private_distdd.networks.embedding import EmbeddingSpec
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.class_embeddings import ClassEmbeddings
from private_distdd.synthetic.latents import Latents

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
TABLE = DatasetInfo("table", 3, (5,), (1.0,), (2.0,))
MLP = ModelSpec("mlp", {"width": 16, "depth": 1})
SPEC = EmbeddingSpec(MLP, (11, 12, 13), 2, 0.5, 8, True)


def images(n: int, seed: int = 0, shape: tuple[int, ...] = INFO.shape) -> Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))


def test_class_means_divide_by_counts_that_mean_something() -> None:
    """Counts may be noise: a small or negative one is taken as a hundredth of the mean class."""
    sums = torch.arange(2 * 4 * 3, dtype=torch.float32).reshape(2, 4, 3)
    counts = torch.tensor([300.0, 10.0, -4.0, 6.0])
    least = (300 + 10 + 4 + 6) / 4 / 100
    expected = sums / torch.tensor([300.0, 10.0, least, 6.0])[:, None]
    assert torch.allclose(class_means(sums, counts), expected)
    assert class_means(sums, torch.tensor([300.0, 10.0, 0.1, 6.0]))[0, 2, 0] < sums[0, 2, 0] / 0.5
    assert not bool(class_means(torch.zeros(2, 4, 3), torch.zeros(4)).any())


def test_steps_leave_out_classes_without_images_and_stop_at_black_and_white() -> None:
    embeddings = ClassEmbeddings(SPEC, INFO, "cpu")
    means = torch.stack([network(images(3, seed=4)) for network in embeddings.networks])
    finished = []
    for goal in (means, means.index_fill(1, torch.tensor([1]), 100.0)):  # class 1 is out of reach, and not asked for
        own, losses = images(3) * 5, list[float]()
        match_means(
            Latents(None, INFO, own),
            torch.tensor([0, 2, 2]),
            embeddings.networks,
            goal,
            INFO,
            partition=2,
            steps=60,
            rate=0.1,
            smoothness=0.0,
            rng=np.random.default_rng(0),
            report=lambda step, loss, losses=losses: losses.append(loss),
        )
        own = own.detach()
        finished.append(own)
        assert float(own.abs().max()) == 1
        assert len(losses) == 60
        assert sum(losses[-6:]) < 0.7 * sum(losses[:6])
    assert torch.equal(*finished)
    nothing = images(0)
    arguments = (Latents(None, INFO, nothing), torch.empty(0, dtype=torch.int64), embeddings.networks, means, INFO)
    match_means(*arguments, partition=2, steps=3, rate=0.1, smoothness=0.1, rng=np.random.default_rng(0))
    assert len(nothing) == 0


def matched(start: Tensor, means_of: Tensor, smoothness: float, steps: int = 150) -> tuple[Tensor, list[float]]:
    """Rows of `TABLE`, one a class, after steps towards the embeddings of `means_of`; and the losses."""
    embeddings = ClassEmbeddings(EmbeddingSpec(MLP, (1, 2), 1, 0.5, 16, False), TABLE, "cpu")
    goal = torch.stack([network(means_of) for network in embeddings.networks])
    own, losses = start.clone(), list[float]()
    match_means(
        Latents(None, TABLE, own),
        torch.arange(3),
        embeddings.networks,
        goal,
        TABLE,
        partition=1,
        steps=steps,
        rate=0.1,
        smoothness=smoothness,
        rng=np.random.default_rng(0),
        report=lambda step, loss: losses.append(loss),
    )
    return own.detach(), losses


def test_rows_of_a_table_move_without_bounds_and_are_never_smoothed() -> None:
    start, goal = images(3, shape=TABLE.shape), images(3, seed=1, shape=TABLE.shape)
    own, losses = matched(start, goal, smoothness=0.0)
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    far, _ = matched(start * 30, goal, smoothness=0.0, steps=5)
    assert (far - start * 30).abs().max() < 1  # no black or white to be cut to
    assert float(far.abs().max()) > 20
    assert torch.equal(matched(start, goal, smoothness=100.0)[0], own)


def test_rows_that_are_there_already_stay() -> None:
    goal = images(3, shape=TABLE.shape)
    own, losses = matched(goal, goal, smoothness=1.0, steps=5)
    assert max(losses) == pytest.approx(0, abs=1e-6)
    assert torch.allclose(own, goal, atol=0.6)
