"""Embeddings: the kernel they stand for, rows of norm 1 for every image, and specifications that are refused."""

from __future__ import annotations

import dataclasses
import json
import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from private_distdd.data.info import DatasetInfo
from private_distdd.errors import ConfigurationError, ModelError, PrivateDistDDError
from private_distdd.networks.embedding import Embedding, EmbeddingSpec
from private_distdd.networks.micro_batch import micro_batches, padded
from private_distdd.networks.register import register_model
from private_distdd.networks.spec import ModelSpec
from private_distdd.questions.class_embeddings import ClassEmbeddings

INFO = DatasetInfo("tiny", 3, (1, 8, 8), (0.5,), (0.5,))
MLP = ModelSpec("mlp", {"width": 16, "depth": 1})
CONVNET = ModelSpec("convnet", {"width": 8, "depth": 1})
SPEC = EmbeddingSpec(MLP, (11, 12, 13), 2, 0.5, 8, True)


def images(n: int, seed: int = 0, shape: tuple[int, ...] = INFO.shape) -> Tensor:
    return torch.randn((n, *shape), generator=torch.Generator().manual_seed(seed))


def naive(spec: EmbeddingSpec, seed: int, image: Tensor, info: DatasetInfo) -> list[float]:
    """One image's embedding, number by number, in float64."""
    channels, height, width = info.shape
    rng = np.random.default_rng([seed, 1])
    small = (channels, height // spec.pool, width // spec.pool)
    network = spec.model.build(small, info.num_classes, seed).double()
    drawn = rng.standard_normal((network[-1].in_features, spec.frequencies), dtype=np.float32)
    frequencies = drawn.astype(np.float64) / spec.bandwidth
    pixels = image.double()
    if spec.augment:
        angle, tall, wide, down, right = rng.uniform(-1, 1, 5)
        pixels = moved(pixels, info, math.radians(15) * angle, 1.2**tall, 1.2**wide, down / 8, right / 8)
    pooled = torch.zeros(small, dtype=torch.float64)
    for c in range(channels):
        for i in range(small[1]):
            for j in range(small[2]):
                rows, columns = (slice(k * spec.pool, (k + 1) * spec.pool) for k in (i, j))
                pooled[c, i, j] = pixels[c, rows, columns].mean()
    activation = pooled[None]
    with torch.no_grad():
        for layer in list(network)[:-1]:
            activation = layer(activation)
    features = activation.flatten().numpy()
    unit = features / np.sqrt((features**2).sum())
    angles = [sum(unit[k] * frequencies[k, j] for k in range(len(unit))) for j in range(spec.frequencies)]
    scale = math.sqrt(spec.frequencies)
    return [math.cos(a) / scale for a in angles] + [math.sin(a) / scale for a in angles]


def moved(
    pixels: Tensor, info: DatasetInfo, angle: float, tall: float, wide: float, down: float, right: float
) -> Tensor:
    """Each pixel of the result is read, bilinearly, where rotation, scaling and shift put it; black outside."""
    channels, height, width = pixels.shape
    black = [(0 - m) / s for m, s in zip(info.mean, info.std, strict=True)]
    out = torch.zeros_like(pixels)

    def at(c: int, i: int, j: int) -> float:
        return float(pixels[c, i, j]) if 0 <= i < height and 0 <= j < width else black[c]

    for i in range(height):
        for j in range(width):
            y, x = (2 * i + 1) / height - 1, (2 * j + 1) / width - 1
            u = wide * (math.cos(angle) * x - math.sin(angle) * y) + 2 * right
            v = tall * (math.sin(angle) * x + math.cos(angle) * y) + 2 * down
            row, column = ((v + 1) * height - 1) / 2, ((u + 1) * width - 1) / 2
            top, left = math.floor(row), math.floor(column)
            for c in range(channels):
                out[c, i, j] = sum(
                    (1 - abs(row - k)) * (1 - abs(column - m)) * at(c, k, m)
                    for k in (top, top + 1)
                    for m in (left, left + 1)
                )
    return out


# What an embedding is


@pytest.mark.parametrize("model", [MLP, CONVNET], ids=lambda model: model.name)
@pytest.mark.parametrize(("pool", "augment"), [(1, False), (2, True), (4, True)])
def test_embeddings_are_those_of_a_naive_implementation(model: ModelSpec, pool: int, augment: bool) -> None:
    info = DatasetInfo("colour", 3, (2, 8, 12), (0.3, 0.6), (0.2, 0.5))
    spec = EmbeddingSpec(model, (5, 6), pool, 0.7, 4, augment)
    data = images(2, shape=info.shape)
    for seed in spec.seeds:
        found = Embedding(spec, seed, info, "cpu")(data)
        expected = torch.tensor([naive(spec, seed, image, info) for image in data], dtype=torch.float32)
        assert torch.allclose(found, expected, atol=1e-5)
        other = dataclasses.replace(spec, bandwidth=0.75)
        assert not torch.allclose(Embedding(other, seed, info, "cpu")(data), expected, atol=1e-2)


def test_inner_products_are_a_gaussian_kernel() -> None:
    """With m frequencies the error is of the order 1 / sqrt(m); the wrong bandwidth is far outside."""
    spec = EmbeddingSpec(MLP, (3,), 1, 0.6, 4096, False)
    embedding, data = Embedding(spec, 3, INFO, "cpu"), images(24)
    with torch.no_grad():
        features = embedding._network(data)
        unit = F.normalize(features.double(), dim=1)
        squares = torch.cdist(unit, unit).square()
        found = embedding(data).double()
        found = found @ found.T

    def error(bandwidth: float) -> float:
        return float((found - torch.exp(-squares / (2 * bandwidth**2))).abs().max())

    assert error(0.6) < 5 / math.sqrt(4096)
    assert min(error(0.45), error(0.8)) > 10 / math.sqrt(4096)


def test_gradients_reach_the_images_and_are_right() -> None:
    spec = dataclasses.replace(SPEC, model=CONVNET)
    embedding, target = Embedding(spec, 11, INFO, "cpu"), torch.randn(16, generator=torch.Generator().manual_seed(1))
    data, direction = images(1).requires_grad_(True), images(1, seed=2)

    def loss(at: Tensor) -> Tensor:
        return (embedding(at) * target).sum()

    (gradient,) = torch.autograd.grad(loss(data), [data])
    assert float(gradient.abs().max()) > 1e-3
    with torch.no_grad():
        step = 1e-2
        difference = float(loss(data + step * direction) - loss(data - step * direction)) / (2 * step)
    assert difference == pytest.approx(float((gradient * direction).sum()), rel=0.05)
    assert not any(parameter.requires_grad for parameter in embedding._network.parameters())


def test_seeds_make_embeddings_and_leave_the_global_generators_alone() -> None:
    data = images(3)
    torch.manual_seed(5), np.random.seed(5)
    state = torch.get_rng_state(), np.random.get_state()[1].copy()
    rows = ClassEmbeddings(SPEC, INFO, "cpu").rows(data)
    assert torch.equal(torch.get_rng_state(), state[0])
    assert (np.random.get_state()[1] == state[1]).all()
    torch.manual_seed(6)
    assert torch.equal(ClassEmbeddings(SPEC, INFO, "cpu").rows(data), rows)
    other = ClassEmbeddings(dataclasses.replace(SPEC, seeds=(11, 12, 14)), INFO, "cpu").rows(data)
    assert torch.equal(other[:, :32], rows[:, :32])
    assert not torch.allclose(other[:, 32:48], rows[:, 32:48], atol=1e-3)


def test_networks_move_images_each_in_its_own_way() -> None:
    data = images(2)
    still = dataclasses.replace(SPEC, augment=False)
    for seed in SPEC.seeds:
        a, b = Embedding(SPEC, seed, INFO, "cpu"), Embedding(still, seed, INFO, "cpu")
        assert torch.equal(a._frequencies, b._frequencies)
        assert not torch.allclose(a(data), b(data), atol=1e-2)
    movements = [Embedding(SPEC, seed, INFO, "cpu")._movement for seed in SPEC.seeds]
    assert not torch.allclose(movements[0], movements[1], atol=1e-2)
    black = INFO.normalise(torch.zeros(1, *INFO.shape))
    for seed in SPEC.seeds:  # an empty picture stays empty
        moved_, still_ = (Embedding(spec, seed, INFO, "cpu")(black) for spec in (SPEC, still))
        assert torch.allclose(moved_, still_, atol=1e-5)


# Rows


HUGE = [0.0, 1.0, -1.0, 1e-30, 1e10, -1e19, 1e25, 3e38, -3e38]


@given(
    st.sampled_from([MLP, CONVNET]),
    st.sampled_from([0.05, 0.5, 30.0]),
    st.lists(st.sampled_from(HUGE), min_size=1, max_size=4),
    st.integers(0, 1000),
    st.booleans(),
)
@settings(max_examples=60)
def test_rows_have_norm_1_for_every_finite_image(
    model: ModelSpec, bandwidth: float, scales: list[float], seed: int, constant: bool
) -> None:
    spec = dataclasses.replace(SPEC, model=model, bandwidth=bandwidth)
    data = torch.stack([scale * (torch.ones(INFO.shape) if constant else images(1, seed)[0]) for scale in scales])
    data = data.clamp(-3e38, 3e38)
    rows = ClassEmbeddings(spec, INFO, "cpu").rows(data)
    assert rows.shape == (len(scales), spec.dimension)
    assert torch.allclose(torch.linalg.vector_norm(rows.double(), dim=1), torch.ones(1).double(), atol=1e-5, rtol=0)
    assert torch.equal(rows[:, -1], torch.full((len(scales),), 0.2))


@given(st.integers(0, 2**16), st.integers(1, 64), st.sampled_from([1.0, 1e30, math.nan]))
@settings(max_examples=30)
def test_a_row_s_bits_do_not_depend_on_place_or_company(seed: int, n: int, scale: float) -> None:
    """Whatever rides along, NaN included.  (Not so on every processor for 5 to 11 frequencies: MKL rounds by place.)"""
    rng = np.random.default_rng(seed)
    embeddings = ClassEmbeddings(SPEC, INFO, "cpu")
    own, others = images(1, seed), images(n, seed + 1) * scale
    alone = embeddings.rows(padded(own, torch.zeros(1, dtype=torch.int64))[0])
    place = int(rng.integers(n))
    others[place] = own[0]
    ((batch, _, count),) = micro_batches(others, torch.zeros(n, dtype=torch.int64))
    rows = embeddings.rows(batch)
    assert torch.equal(rows[place], alone[0])
    assert len(rows) == len(alone) == 64
    assert count == n


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32)])
@pytest.mark.parametrize("frequencies", [1, 16, 64, 256])
def test_equal_images_have_equal_rows_in_every_place(shape: tuple[int, int, int], frequencies: int) -> None:
    info = DatasetInfo("x", 10, shape)
    for model in (ModelSpec("convnet", {"width": 32, "depth": 2}), ModelSpec("resnet", {"width": 8})):
        spec = EmbeddingSpec(model, (1,), 2, 0.3, frequencies, True)
        rows = ClassEmbeddings(spec, info, "cpu").rows(images(1, shape=shape).expand(64, *shape).contiguous())
        assert bool((rows == rows[0]).all())


def test_sums_are_read_as_they_were_written() -> None:
    embeddings, data = ClassEmbeddings(SPEC, INFO, "cpu"), images(7)
    labels = torch.tensor([0, 2, 0, 0, 2, 2, 2])
    sums = torch.zeros(3, SPEC.dimension).index_add_(0, labels, embeddings.rows(data))
    embedded, counts = embeddings.read(sums)
    assert embedded.shape == (3, 3, 16)  # networks, classes, cosines and sines
    assert torch.allclose(counts, torch.tensor([3.0, 0.0, 4.0]), atol=1e-5)
    for k, network in enumerate(embeddings.networks):
        for c in range(3):
            assert torch.allclose(embedded[k, c], network(data)[labels == c].sum(dim=0), atol=1e-5)
    found = [(len(batch), count) for batch, _, count in micro_batches(images(130), torch.zeros(130, dtype=torch.int64))]
    assert found == [(64, 64), (64, 64), (64, 2)]


# Specifications


@pytest.mark.parametrize("augment", [True, False])
def test_a_specification_survives_json(augment: bool) -> None:
    spec = dataclasses.replace(SPEC, augment=augment, seeds=(0, 2**62 - 1))
    record = json.loads(json.dumps(spec.to_json(), allow_nan=False))
    assert EmbeddingSpec.from_json(record) == spec
    assert spec.dimension == 2 * 8 * 2 + 1


@register_model("test_embeddings_not_sequential")
class _Whole(nn.Module):
    def __init__(self, shape: tuple[int, int, int], num_classes: int) -> None:
        super().__init__()
        self.layer = nn.Linear(math.prod(shape), num_classes)

    def forward(self, batch: Tensor) -> Tensor:
        return self.layer(batch.flatten(1))


@register_model("test_embeddings_softmax")
def _ends_in_softmax(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), num_classes), nn.LogSoftmax(1))


@register_model("test_embeddings_batchnorm")
def _batchnorm(shape: tuple[int, int, int], num_classes: int) -> nn.Module:
    return nn.Sequential(nn.BatchNorm2d(1), nn.Flatten(), nn.Linear(math.prod(shape), num_classes))


BAD: list[dict[str, Any]] = [
    *({"bandwidth": value} for value in (0, -1, math.nan, math.inf, "1", None, True)),
    *({name: value} for name in ("pool", "frequencies") for value in (0, -1, 1.5, "2", None, True)),
    *({"augment": value} for value in (0, 1, "yes", None)),
    *({"seeds": value} for value in ([], [-1], [1.5], ["1"], "12", [None], 7, None, {"a": 1}, [2**63], [10**30])),
    *({"model": value} for value in (None, "mlp", {"name": "mlp"}, {"name": 3, "arguments": {}})),
    {"model": {"name": "mlp", "arguments": {"width": [math.nan]}}},
    {"extra": 1},
    {"pool": 3},
    {"pool": 16},
    *(
        {"model": {"name": name, "arguments": {}}}
        for name in (
            "no such",
            "lenet",
            "test_embeddings_not_sequential",
            "test_embeddings_softmax",
            "test_embeddings_batchnorm",
        )
    ),
    {"model": {"name": "mlp", "arguments": {"widht": 3}}},
    {"model": {"name": "convnet", "arguments": {"depth": 4}}},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_bad_specifications_are_refused_by_our_own_errors(change: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, ModelError)) as caught:
        EmbeddingSpec.from_json({**SPEC.to_json(), **change}).validate(INFO)
    assert isinstance(caught.value, PrivateDistDDError)
    assert caught.value.allowed


def test_missing_fields_are_refused() -> None:
    for name in SPEC.to_json():
        record = {field: value for field, value in SPEC.to_json().items() if field != name}
        with pytest.raises(ModelError, match="the fields"):
            EmbeddingSpec.from_json(record)


# Rows of a table


TABLE = DatasetInfo("table", 3, (5,), (1.0,), (2.0,))


def test_rows_of_a_table_are_embedded_as_they_are() -> None:
    spec = EmbeddingSpec(MLP, (5, 6), 1, 0.7, 4, False)
    data = images(3, shape=TABLE.shape)
    for seed in spec.seeds:
        network = spec.model.build(TABLE.shape, TABLE.num_classes, seed)[:-1].double()
        frequencies = np.random.default_rng([seed, 1]).standard_normal((16, 4), dtype=np.float32)
        with torch.no_grad():
            unit = F.normalize(network(data.double()), dim=1)
        angles = unit @ torch.from_numpy(frequencies).double() / 0.7
        expected = torch.cat([angles.cos(), angles.sin()], dim=1) / math.sqrt(4)
        assert torch.allclose(Embedding(spec, seed, TABLE, "cpu")(data).double(), expected, atol=1e-5)
    rows = ClassEmbeddings(spec, TABLE, "cpu").rows(data * 1e25)
    assert torch.allclose(torch.linalg.vector_norm(rows.double(), dim=1), torch.ones(3).double(), atol=1e-5)
    spec.validate(TABLE)
    assert spec.cost(TABLE).memory > 0


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"pool": 2}, "pool = 2 for rows of 5 features; allowed: 1"),
        ({"augment": True}, "augment = True for rows of 5 features; allowed: False"),
        ({"model": CONVNET}, "'convnet' for rows of 5 features; allowed: images. Use 'mlp'"),
        ({"model": ModelSpec("test_embeddings_not_sequential")}, "Take 'mlp'"),
    ],
)
def test_what_needs_images_is_refused_for_tables(change: dict[str, Any], says: str) -> None:
    spec = dataclasses.replace(EmbeddingSpec(MLP, (5, 6), 1, 0.7, 4, False), **change)
    with pytest.raises((ConfigurationError, ModelError), match=says):
        spec.validate(TABLE)
    with pytest.raises((ConfigurationError, ModelError), match=says):
        Embedding(spec, 5, TABLE, "cpu")
    if "model" not in change:  # before a client computes anything
        with pytest.raises(ConfigurationError, match=says):
            spec.cost(TABLE)
